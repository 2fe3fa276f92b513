"""Owns the KV pool: pages, blocks, content hashes, pinned prefixes. No torch."""

__all__: list[str] = []
