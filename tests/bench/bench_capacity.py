"""KV capacity of models whose layers keep different tokens, against a uniform pool of equal memory.

    python tests/bench/bench_capacity.py

Two figures per model and context: the arithmetic of tokens kept (blocks not rounded), and what the
real books admit: sequences of that length that one pool of large pages takes, against one in which
every layer keeps every token. Beside them the published table's figures. The last line is JSON.
"""

import json

from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.cost.kv_capacity import capacity_table
from thothy_batch.engine.kv_cache.page_pool import PagePool
from thothy_batch.records import LayerGroup

CONTEXTS = (1024, 3072, 8192, 32768)
# Full layers, windowed layers, window; the published gains at 1k, 3k, 8k, 32k (a range: of two
# models of that family together).
MODELS: dict[str, tuple[int, int, int, tuple[str, ...]]] = {
    "Gemma-3-27B": (10, 52, 1024, ("1.00", "2.23", "3.72", "5.32")),
    "Gemma-3-12B": (8, 40, 1024, ("1.00", "2.2-2.3", "3.7-3.9", "5.2-5.7")),
    "Gemma-3-1B": (4, 22, 512, ("1.73", "3.35", "4.81", "5.97")),
    "Gemma-2-9B": (21, 21, 4096, ("1.00", "1.00", "1.32", "1.77")),
    "gpt-oss-20b": (12, 12, 128, ("1.78", "1.92", "1.97", "1.99")),
}
BLOCK_SIZE = 32
MAX_STEP = 2048  # tokens of a prompt that one step computes
NUM_BLOCKS = 100_000


def groups_of(full: int, windowed: int, window: int) -> tuple[LayerGroup, ...]:
    layers = tuple(range(full + windowed))
    return LayerGroup(layers[:full]), LayerGroup(layers[full:], window)


def admitted(groups: tuple[LayerGroup, ...], context: int) -> float:
    """Decoding sequences of that length in the pool of pages, against the uniform pool."""
    layout = KVLayout(groups, BLOCK_SIZE)
    num_pages = layout.num_pages(NUM_BLOCKS)
    pool = PagePool(num_pages, layout.blocks_per_page)
    each = [
        layout.blocks_for(context)
        if group.window is None
        else min(layout.blocks_for(context), layout.window_blocks(group.window))
        for group in groups
    ]
    # One prompt is open at a time: its steps see more of the window's layers than decoding does.
    opening = layout.needs(context - 1, context, context, 1, min(context, MAX_STEP))
    count = 0
    while pool.fits(opening):
        for group, number in enumerate(each):
            pool.allocate(group, number)
        count += 1
    return count / (NUM_BLOCKS // layout.blocks_for(context))


def main() -> None:
    rows = []
    print("| model | context | arithmetic | published | admitted by the pool |")
    print("|---|---|---|---|---|")
    for name, (full, windowed, window, published) in MODELS.items():
        groups = groups_of(full, windowed, window)
        for row, known in zip(capacity_table(groups, CONTEXTS), published, strict=True):
            real = admitted(groups, row.context)
            rows.append(
                {"model": name, "context": row.context, "arithmetic": round(row.gain, 3),
                 "published": known, "admitted": round(real, 3)}
            )  # fmt: skip
            print(f"| {name} | {row.context:,} | {row.gain:.2f} | {known} | {real:.2f} |")
    print(json.dumps({"benchmark": "capacity", "block_size": BLOCK_SIZE, "rows": rows}))


if __name__ == "__main__":
    main()
