"""Names made of content: what a request is, which artifact it gives, how its samples are drawn.

Nothing positional goes in: a row has the same key in any order, file or run.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from thothy_batch.records import Sampling, TokenIds

# Raised when the same input would give another artifact: all artifacts are then made anew.
KEY_VERSION = 1
_DIGEST_BYTES = 16
# Without effect on the likeliest token; a change of them asks for nothing new at temperature 0.
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
    """The identity of a request: 32 hex characters (contract section 4).

    `sampling` is resolved. `run_seed` counts only where tokens are drawn and `sampling.seed` does
    not say how. `beyond_prompt`: what else the artifact depends on, such as the values that later
    stages read; empty or None: nothing. `may_draw`: also greedy rows are drawn at another attempt.
    """
    schema = json.dumps(output_schema, sort_keys=True) if output_schema is not None else ""
    state = _settings_state(
        model_fingerprint, sampling, num_samples, kind_hash, schema, run_seed, may_draw
    ).copy()
    state.update(token_bytes(prompt_token_ids))
    if beyond_prompt:
        # No token id is -1, so what follows cannot be taken for a part of the prompt.
        state.update(token_bytes([-1]))
        state.update(json.dumps(beyond_prompt, sort_keys=True, default=repr).encode())
    return str(state.hexdigest())


def row_seed(
    run_seed: int, sampling_seed: int | None, request_key: str, *, attempt: int = 1
) -> int:
    """The seed of a request's samples, 63 bits. Another attempt draws other tokens."""
    seed = run_seed if sampling_seed is None else sampling_seed
    digest = hashlib.blake2b(f"{seed}:{request_key}:{attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def artifact_id(job: str, item_id: str, variant: str, request_key: str) -> str:
    """The identity of an artifact: 32 hex characters."""
    text = json.dumps([KEY_VERSION, job, item_id, variant, request_key])
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def token_bytes(token_ids: TokenIds) -> bytes:
    """Token ids as little-endian 32-bit integers, on every machine and from every container."""
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
    """A hash state that has seen everything but the prompt: most rows of a job share it."""
    said: dict[str, object] = {
        name: getattr(sampling, name) for name in Sampling.__dataclass_fields__
    }
    # 1 and 1.0 (0.0 and -0.0) are one value to cache and sampler, but two to JSON.
    said |= {name: float(getattr(sampling, name)) + 0.0 for name in _FRACTIONS}
    if sampling.temperature == 0 and not may_draw:
        for name in _DRAWING_ONLY:
            del said[name]
    elif sampling.seed is None:
        said["run_seed"] = run_seed
    head = [KEY_VERSION, model_fingerprint, said, num_samples, kind_hash, schema]
    text = json.dumps(head, sort_keys=True)
    # The prompt follows directly: JSON ends by itself, so the two cannot be confused.
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES)
