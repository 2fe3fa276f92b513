"""Content-based identities: request keys, artifact ids, and the seeds of samples.

Nothing positional is hashed: a row has the same key in any order, file or run.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from thothy_batch.records import Sampling, TokenIds

# Increased when the same input would produce another artifact; all artifacts are then recomputed.
KEY_VERSION = 1
_DIGEST_BYTES = 16
# These do not change the most likely token, so at temperature 0 they are not part of the key.
_DRAWING_ONLY = ("top_p", "top_k", "seed")
_FRACTIONS = ("temperature", "top_p", "repetition_penalty")


def request_key(
    *,
    model_fingerprint: str,
    prompt_token_ids: TokenIds,
    sampling: Sampling,
    num_samples: int,
    kind_hash: str,
    output_schema: Mapping[str, object] | None = None,
    run_seed: int = 0,
    beyond_prompt: Mapping[str, object] | None = None,
    may_draw: bool = False,
) -> str:
    """Return the identity of a request, 32 hex characters.

    `prompt_token_ids` are those of the first stage's prompt on a fixed day: what a chat template
    prints of the clock is the day on which the run began and no part of the identity, so that a
    night is resumed after midnight. `sampling` is resolved. `run_seed` counts only where tokens
    are sampled and `sampling.seed` is None. `beyond_prompt` holds whatever else the artifact
    depends on, such as values that later stages read; None or empty means nothing. `may_draw`: a
    retry samples even greedy rows.
    """
    schema = json.dumps(output_schema, sort_keys=True) if output_schema is not None else ""
    state = _settings_state(
        model_fingerprint, sampling, num_samples, kind_hash, schema, run_seed, may_draw
    ).copy()
    state.update(token_bytes(prompt_token_ids))
    if beyond_prompt:
        # No token id is -1, so the rest cannot be mistaken for part of the prompt.
        state.update(token_bytes([-1]))
        state.update(json.dumps(beyond_prompt, sort_keys=True, default=repr).encode())
    return str(state.hexdigest())


def row_seed(
    run_seed: int, sampling_seed: int | None, request_key: str, *, attempt: int = 1
) -> int:
    """Return the 63-bit seed of a request's samples. Each attempt has a seed of its own."""
    seed = run_seed if sampling_seed is None else sampling_seed
    digest = hashlib.blake2b(f"{seed}:{request_key}:{attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def artifact_id(job: str, item_id: str, variant: str, request_key: str) -> str:
    """Return the identity of an artifact, 32 hex characters."""
    text = json.dumps([KEY_VERSION, job, item_id, variant, request_key])
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def token_bytes(token_ids: TokenIds) -> bytes:
    """Encode token ids as little-endian int32, whatever the machine or the container."""
    return np.asarray(token_ids, dtype="<i4").tobytes()


@lru_cache(maxsize=1024)
def _settings_state(
    model_fingerprint: str,
    sampling: Sampling,
    num_samples: int,
    kind_hash: str,
    schema: str,
    run_seed: int,
    may_draw: bool,
) -> Any:
    """Hash everything but the prompt. Most rows of a job share this state."""
    settings: dict[str, object] = {
        name: getattr(sampling, name) for name in Sampling.__dataclass_fields__
    }
    # 1 and 1.0 (0.0 and -0.0) are equal to the cache and the sampler but differ in JSON.
    settings |= {name: float(getattr(sampling, name)) + 0.0 for name in _FRACTIONS}
    if not sampling.stop_token_ids:  # keys are older than this setting
        del settings["stop_token_ids"]
    if sampling.temperature == 0 and not may_draw:
        for name in _DRAWING_ONLY:
            del settings[name]
    elif sampling.seed is None:
        settings["run_seed"] = run_seed
    head = [KEY_VERSION, model_fingerprint, settings, num_samples, kind_hash, schema]
    text = json.dumps(head, sort_keys=True)
    # The prompt follows directly: JSON is self-delimiting, so the two cannot be confused.
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES)
