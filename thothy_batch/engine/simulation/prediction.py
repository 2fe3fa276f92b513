"""Predicts the time of a run and of each of its jobs, on the simulated device."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.sequence import Sequence as Seq
from thothy_batch.engine.cost.cost_model import CostModel, ModelWork, StepSpeed
from thothy_batch.engine.cost.known_speed import KnownSpeed
from thothy_batch.engine.simulation.simulator import Simulated, Simulator
from thothy_batch.records import Request


@dataclass(frozen=True, slots=True)
class JobPrediction:
    """A job's part of a run. Seconds."""

    engine_s: float  # its share of engine time, by computed tokens
    finished_s: float  # since engine ready


@dataclass(frozen=True, slots=True)
class Prediction:
    """A run on the simulated device."""

    seconds: float
    jobs: dict[str, JobPrediction]
    simulated: Simulated


def predict(
    config: EngineConfig,
    work: ModelWork,
    known: KnownSpeed,
    requests: Iterable[Request],
    *,
    output_lens: Mapping[int, int],
    jobs: Mapping[int, str],
) -> Prediction:
    """Run planned requests, in their order, on the simulated device.

    `output_lens`: tokens of a sample by request_id; `jobs`: a name by request_id. Every request
    has to fit the pool.
    """
    tokens: dict[str, int] = dict.fromkeys(jobs.values(), 0)
    ends: dict[str, float] = dict.fromkeys(jobs.values(), 0.0)

    def finished(seq: Seq, seconds: float) -> None:
        job = jobs[seq.state.request.request_id]
        ends[job] = seconds
        prompt = seq.prompt_len - seq.state.cached_prompt_tokens if seq.sample == 0 else 0
        tokens[job] += prompt + seq.num_output

    simulator = Simulator(
        config,
        CostModel(work, known.speed),
        output_len=lambda request, sample: output_lens[request.request_id],
        on_finished=finished,
    )
    simulated = simulator.run(requests)
    total = sum(tokens.values()) or 1
    parts = {
        job: JobPrediction(simulated.seconds * tokens[job] / total, ends[job]) for job in tokens
    }
    return Prediction(simulated.seconds, parts, simulated)


def request_costs(
    work: ModelWork, speed: StepSpeed, requests: Sequence[Request], output_lens: Mapping[int, int]
) -> list[float]:
    """Seconds that each request adds to a busy engine, for comparing requests."""
    rows, seconds = speed.linears[-1]
    head_rows, head_s = speed.head[-1]
    kv_s = speed.kv_byte_s * sum(group.kv_bytes_per_token for group in work.groups)
    costs = []
    for request in requests:
        prompt_len = len(request.prompt_token_ids)
        output_len = output_lens[request.request_id]
        outputs = output_len * request.num_samples
        costs.append(
            (prompt_len + outputs) * seconds / rows
            + outputs * (head_s / head_rows + (prompt_len + output_len / 2) * kv_s)
        )
    return costs
