"""The engine record of a run keeps its shape, on which the store's readers rely."""

import json
import pickle

from thothy_batch.records import DeviceLimits, LayerGroup, ResolvedEngine

SETTINGS = {
    "device": "cpu",
    "impl": "cpu",
    "dtype": "float32",
    "num_blocks": 100,
    "max_seqs": 8,
    "max_step_tokens": 64,
    "max_model_len": 512,
    "admission": "reserve",
    "prefix_sharing": True,
    "threads": 2,
    "speculation": False,
    "bulk_tokens": 0,
    "block_size": 32,
}
LIMITS = DeviceLimits("a CPU", 2, {"float32": 1e9}, 2e9, "2026-11-22T22:30:00+00:00")


def engine(limits: DeviceLimits | None = None) -> ResolvedEngine:
    groups = (LayerGroup((0, 2)), LayerGroup((1, 3, 4), window=16))
    return ResolvedEngine(**SETTINGS, layer_groups=groups, device_limits=limits)  # type: ignore[arg-type]


def test_settings_are_recorded_flat_and_in_this_order() -> None:
    groups = [{"num_layers": 2, "window": None}, {"num_layers": 3, "window": 16}]
    expected = {**SETTINGS, "layer_groups": groups}
    assert json.dumps(engine().as_json()) == json.dumps(expected)


def test_measured_limits_are_recorded_as_device_figures() -> None:
    recorded = engine(LIMITS).as_json()
    assert recorded["device_figures"] == {
        "device": "a CPU",
        "threads": 2,
        "flops": {"float32": 1e9},
        "bandwidth": 2e9,
        "measured_at": "2026-11-22T22:30:00+00:00",
        "load": None,
    }
    assert "device_limits" not in recorded


def test_it_goes_over_the_channel() -> None:
    assert pickle.loads(pickle.dumps(engine(LIMITS))) == engine(LIMITS)
