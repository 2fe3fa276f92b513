"""KV layouts for tests."""

from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.records import LayerGroup


def uniform_layout(block_size: int, num_layers: int = 1) -> KVLayout:
    """Return the layout of a model whose layers all keep the whole context."""
    return KVLayout((LayerGroup(tuple(range(num_layers))),), block_size)
