"""The receipt counts the needs of finished requests, independent of their schedule."""

from random import Random

import pytest

from thothy_batch.engine.cost.cost_model import GroupWork, ModelWork
from thothy_batch.engine.cost.roofline import roofline_s
from thothy_batch.plan import plan_requests
from thothy_batch.records import (
    Completion,
    DeviceLimits,
    FinishReason,
    Request,
    RequestResult,
    Sampling,
)
from thothy_batch.runner.work.roofline_receipt import RooflineReceipt

WORK = ModelWork(10_000, 2_000, 4, 4, 8, (GroupWork(2, None, 256), GroupWork(4, 24, 512)))
LIMITS = DeviceLimits("cpu", 1, {"float32": 1e9}, 1e8, "")


def finished(request_id: int, lengths: tuple[int, ...], cached: int = 0) -> RequestResult:
    completions = tuple(Completion((1,) * n, "", FinishReason.STOP) for n in lengths)
    return RequestResult(request_id, completions, 0, cached, sum(lengths), 7 * cached, 1.0, 2.0)


def project(num: int) -> tuple[list[list[int]], list[tuple[int, ...]]]:
    random = Random(num)
    heads = [[random.randrange(9) for _ in range(random.randrange(8, 90))] for _ in range(5)]
    prompts = [
        random.choice(heads) + [random.randrange(9) for _ in range(1 + i % 40)] for i in range(num)
    ]
    outputs = [
        tuple(random.randrange(1, 30) for _ in range(random.randrange(1, 4))) for _ in prompts
    ]
    return prompts, outputs


def receipt_of(prompts: list[list[int]], results: list[RequestResult]) -> float | None:
    receipt = RooflineReceipt(WORK, LIMITS, 8)
    for prompt, result in zip(prompts, results, strict=True):
        receipt.add(prompt, result)
    return receipt.roofline_s("float32")


@pytest.mark.parametrize("num", [1, 3, 40, 700])
def test_it_is_the_roofline_time_of_finished_requests(num: int) -> None:
    prompts, outputs = project(num)
    requests = [Request(i, "", prompt, Sampling()) for i, prompt in enumerate(prompts)]
    content = plan_requests(requests, "fifo", block_size=8).content
    lengths = [len(prompt) for prompt in prompts]
    wanted = roofline_s(zip(lengths, outputs, content, strict=True), WORK, 1e9, 1e8)
    results = [finished(i, lens) for i, lens in enumerate(outputs)]
    assert receipt_of(prompts, results) == pytest.approx(wanted)


def test_order_cache_hits_and_waste_change_nothing() -> None:
    prompts, outputs = project(60)
    plain = receipt_of(prompts, [finished(i, lens) for i, lens in enumerate(outputs)])
    results = [finished(i, lens, cached=i) for i, lens in enumerate(outputs)]
    shuffled = list(zip(prompts, results, strict=True))
    Random(3).shuffle(shuffled)
    other = receipt_of([prompt for prompt, _ in shuffled], [result for _, result in shuffled])
    assert other == pytest.approx(plain)


def test_a_shared_prefix_is_counted_once() -> None:
    shared, apart = [[1] * 80 + [i] for i in range(6)], [[i] * 80 + [i] for i in range(6)]
    results = [finished(i, (5,)) for i in range(6)]
    less, more = receipt_of(shared, results), receipt_of(apart, results)
    assert less is not None
    assert more is not None
    assert less < 0.6 * more


def test_there_is_none_without_device_limits_or_a_model() -> None:
    result = finished(0, (3,))
    for receipt in (
        RooflineReceipt(None, LIMITS, 8),
        RooflineReceipt(WORK, None, 8),
        RooflineReceipt(WORK, LIMITS, 8),
    ):
        assert receipt.roofline_s("float32") is None
    for receipt in (RooflineReceipt(None, LIMITS, 8), RooflineReceipt(WORK, None, 8)):
        receipt.add([1, 2], result)
        assert receipt.roofline_s("float32") is None
