"""Content hashes of KV blocks, each covering its parent: equal hash, equal prefix. No torch."""

from array import array
from collections.abc import Sequence
from hashlib import blake2b


def chain_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """16 bytes that stand for all tokens up to and including `token_ids`."""
    return blake2b(parent + array("i", token_ids).tobytes(), digest_size=16).digest()


def sample_seed(seed: int, sample_index: int) -> int:
    """The seed of one sample of a request, 63 bits; sample 0 has the request's own."""
    if sample_index == 0:
        return seed
    digest = blake2b(f"{seed}/{sample_index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
