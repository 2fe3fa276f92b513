"""Kernel autotuning: launch settings, measured once per device and shape and cached on disk.

They are searched before the engine is ready and before graphs are captured, within a time budget; a
later start resumes the search. No run fails because of it: an error becomes a note, and the kernels
keep their defaults.
"""

import logging
import time
from collections import abc
from collections.abc import Callable
from hashlib import blake2b
from importlib import metadata
from pathlib import Path

import torch

import thothy_kernels
from thothy_batch.engine.cost.measurement_cache import MeasurementCache, device_name
from thothy_batch.model import KVPool
from thothy_batch.model.config import ModelConfig
from thothy_kernels.gated_activation import triton_impl as gated_in_triton
from thothy_kernels.paged_attention.triton_impl import autotune as attention
from thothy_kernels.rms_norm import triton_impl as norm_in_triton
from thothy_kernels.rope_and_write import triton_impl as rope_in_triton
from thothy_kernels.sample import triton_impl as sample_in_triton
from thothy_kernels.tuning import (
    LaunchSettings,
    Timer,
    Trial,
    Tuned,
    adopt,
    parse,
    plain,
    search,
    time_on_device,
)

_log = logging.getLogger(__name__)
# Longest measured context in tokens; half of it is a prefill chunk.
_MAX_CONTEXT = 4096
# Below, a step is so short that its launches cost more than its kernels.
_MIN_CONTEXT = 1024
_NUM_TOKENS = 2048  # of a step, for kernels that work token by token


@torch.inference_mode()
def tune_kernels(
    config: ModelConfig,
    kv: KVPool,
    *,
    cache_folder: Path | None = None,
    budget_s: float = 30.0,
    timer: Timer = time_on_device,
) -> list[str]:
    """Set the kernels' launch settings for a model, measuring missing ones for up to `budget_s`.

    Overwrites the pool. Returns notes for the user.
    """
    cache = MeasurementCache(cache_folder)
    try:
        device = device_name(kv.k.device.type)
        notes = choose_settings(_trials(config, kv), cache, device, budget_s, timer)
        if kv.k.device.type == "cuda":
            # During capture torch cannot return cached memory to the device.
            torch.cuda.empty_cache()
    except Exception as error:  # no run fails because of it
        said = repr(error)[:250]
        _log.warning("the kernels' launch settings could not be measured: %s", said, exc_info=True)
        return []
    return notes


def choose_settings(
    trials: abc.Sequence[Trial],
    cache: MeasurementCache,
    device: str,
    budget_s: float,
    timer: Timer,
    clock: Callable[[], float] = time.monotonic,
) -> list[str]:
    """Set the kernels' launch settings for the trials' shapes, from the cache or by a search.

    Results of a search that the budget cut short are used but not cached. Returns notes for the
    user.
    """
    deadline = clock() + budget_s
    file, cache_key = cache.kernels_file(device), _cache_key(device)
    known = cache.load(file, cache_key, parse) or {}
    chosen, searched = {}, []
    for trial in trials:
        key = trial.op, trial.key
        if known.get(key) not in trial.candidates:
            tuned = search(trial, timer, deadline, clock)
            searched.append(tuned)
            chosen[key] = tuned.settings
            if tuned.is_complete:
                known[key] = tuned.settings
        else:
            chosen[key] = known[key]
    adopt(chosen)
    if any(tuned.is_complete for tuned in searched):
        cache.store(file, cache_key, plain(known))
    return _notes(searched, budget_s)


def _notes(searched: list[Tuned], budget_s: float) -> list[str]:
    notes = [note for tuned in searched for note in tuned.notes]
    faster = [
        f"{tuned.trial.op} {_microseconds(tuned, tuned.settings)} us with {tuned.settings}, "
        f"{_microseconds(tuned, tuned.default)} us by default"
        for tuned in searched
        if tuned.settings != tuned.default
    ]
    if faster:
        notes.append(f"launch settings chosen by measuring: {'; '.join(faster)}")
    # A default setting that failed has a note already, and no time.
    cut_short = (t for t in searched if not t.is_complete and (t.seconds or not t.notes))
    rest = [tuned.trial.op for tuned in cut_short]
    if rest:
        notes.append(
            f"the {budget_s:g} s for measuring launch settings did not suffice for "
            f"{', '.join(rest)}: the next start resumes"
        )
    return notes


def _microseconds(tuned: Tuned, settings: LaunchSettings) -> str:
    return f"{1e6 * tuned.seconds[settings]:.1f}"


def _trials(config: ModelConfig, kv: KVPool) -> list[Trial]:
    """Return a trial per kernel that a step launches, the slowest kernels first."""
    caches = kv.k_of(0), kv.v_of(0)
    num_blocks, _, block_size, _ = caches[0].shape
    in_pool = num_blocks * block_size
    longest = min(_MAX_CONTEXT, config.max_model_len, in_pool)
    if longest < _MIN_CONTEXT:
        return []
    dtype, device = kv.k.dtype, kv.k.device
    return [
        *attention.trials(config.num_heads, caches, longest=longest),
        sample_in_triton.trial(config.vocab_size, device),
        norm_in_triton.trial(config.hidden_size, dtype, device),
        gated_in_triton.trial(config.intermediate_size, config.activation, dtype, device),
        rope_in_triton.trial(
            config.num_heads, caches, config.qk_norm, num_tokens=min(_NUM_TOKENS, in_pool)
        ),
    ]


def _cache_key(device: str) -> dict[str, str]:
    """Return the cache key: a change of device, kernels or compilers invalidates settings."""
    sources = blake2b(digest_size=8)
    root = Path(thothy_kernels.__path__[0])
    for path in sorted(root.rglob("*.py")):
        sources.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    versions = {"torch": torch.__version__, "triton": metadata.version("triton")}
    return {"device": device, **versions, "kernels": sources.hexdigest()}
