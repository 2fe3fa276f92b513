"""Launch settings of the device's kernels: measured once per device and shape, kept on disk.

They are looked for before an engine counts as ready and before a graph holds a launch, within a
budget; a start goes on where the last one's ended. No night fails for it: whatever goes wrong is a
note, and the kernels keep their defaults.
"""

import logging
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from importlib import metadata
from pathlib import Path

import torch

import thothy_kernels
from thothy_batch.engine.cost.measurement_cache import MeasurementCache, device_name
from thothy_batch.model.config.model_config import ModelConfig
from thothy_batch.model.kv_pool import KVPool
from thothy_kernels.gated_activation import triton_impl as gated_in_triton
from thothy_kernels.paged_attention.triton_impl import autotune as attention
from thothy_kernels.rms_norm import triton_impl as norm_in_triton
from thothy_kernels.rope_and_write import triton_impl as rope_in_triton
from thothy_kernels.sample import triton_impl as sample_in_triton
from thothy_kernels.tuning import (
    Key,
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
# Contexts that are measured, in tokens: half of the longest is a chunk of a prompt.
_LONGEST = 4096
# With less a step is so short that its launches cost more than its kernels.
_LEAST = 1024
_NUM_TOKENS = 2048  # of a step, for what every token goes through


class SettingsCache(MeasurementCache):
    """Reads and writes the settings of a device, of all shapes that were measured there."""

    def load_settings(self, device: str) -> dict[Key, LaunchSettings]:
        """As chosen last; empty where there are none that can be used."""
        return self._load(self.kernels_file(device), _key_of(device), parse) or {}

    def store_settings(self, device: str, settings: dict[Key, LaunchSettings]) -> None:
        self._store(self.kernels_file(device), _key_of(device), plain(settings))


@torch.inference_mode()
def tune_kernels(
    config: ModelConfig,
    kv: KVPool,
    *,
    cache_folder: Path | None = None,
    budget_s: float = 30.0,
    timer: Timer = time_on_device,
) -> list[str]:
    """Take the launch settings for a model over to the kernels, and measure what is not known yet,
    for `budget_s` at most. Returns notes. Overwrites what lies in the pool."""
    cache = SettingsCache(cache_folder)
    try:
        device = device_name(kv.k.device.type)
        notes = choose_settings(_trials(config, kv), cache, device, budget_s, timer)
        if kv.k.device.type == "cuda":
            # While a graph is captured, torch frees no memory that it keeps for later.
            torch.cuda.empty_cache()
    except Exception as error:  # no night fails for it
        said = repr(error)[:250]
        _log.warning("the kernels' launch settings could not be measured: %s", said, exc_info=True)
        return []
    return notes


def choose_settings(
    trials: Sequence[Trial],
    cache: SettingsCache,
    device: str,
    budget_s: float,
    timer: Timer,
    clock: Callable[[], float] = time.monotonic,
) -> list[str]:
    """Fill the kernels' table for the trials' shapes: from the cache, else by a search. Searches
    that the budget cut short count until the next start. Returns notes for the user."""
    deadline = clock() + budget_s
    known = cache.load_settings(device)
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
        cache.store_settings(device, known)
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
    # A default that failed has said so, and has no time.
    cut_short = (t for t in searched if not t.is_complete and (t.seconds or not t.notes))
    rest = [tuned.trial.op for tuned in cut_short]
    if rest:
        notes.append(
            f"the {budget_s:g} s for measuring launch settings did not suffice for "
            f"{', '.join(rest)}: the next start goes on"
        )
    return notes


def _microseconds(tuned: Tuned, settings: LaunchSettings) -> str:
    return f"{1e6 * tuned.seconds[settings]:.1f}"


def _trials(config: ModelConfig, kv: KVPool) -> list[Trial]:
    """Of all operations that a step of the model launches, what takes longest first."""
    caches = kv.k_of(0), kv.v_of(0)
    num_blocks, _, block_size, _ = caches[0].shape
    in_pool = num_blocks * block_size
    longest = min(_LONGEST, config.max_model_len, in_pool)
    if longest < _LEAST:
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


def _key_of(device: str) -> dict[str, str]:
    """What settings hold for: other kernels, or other compilers, are measured anew."""
    sources = blake2b(digest_size=8)
    root = Path(thothy_kernels.__path__[0])
    for path in sorted(root.rglob("*.py")):
        sources.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    versions = {"torch": torch.__version__, "triton": metadata.version("triton")}
    return {"device": device, **versions, "kernels": sources.hexdigest()}
