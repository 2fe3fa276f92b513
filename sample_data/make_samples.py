"""Writes the sample Parquet files: held-out items and a few rows that are wrong on purpose.

    python sample_data/make_samples.py

Deterministic, and disjoint from training (held-out names) and from evaluation (other seeds).
Wrong on purpose: a null text, an empty text, one longer than the model's context, a repeated id
and a text that is not UTF-8.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpus import Item, draw_group, draw_item

Record = dict[str, Any]
NUM_PRODUCTS, NUM_VIDEOS, NUM_GROUPS = 84, 84, 40
FIRST_WEEK = 2600  # written as year and week: 2601, 2602, ...


def _items(name: str, count: int, longest: int, *, is_video: bool) -> list[Item]:
    """`count` held-out items with distinct names, 20 to `longest` words."""
    rng = random.Random(f"samples-{name}")
    items: dict[str, Item] = {}
    while len(items) < count:
        num_words = round(20 * (longest / 20) ** rng.random())
        item = draw_item(rng, num_words, held_out=True, is_video=is_video)
        items.setdefault(item.name, item)
    return list(items.values())


def too_long_text() -> str:
    """About 1,500 words: more than the context of the embedded model."""
    rng = random.Random("samples-too-long")
    return " ".join(draw_item(rng, 380, held_out=True, is_video=False).text for _ in range(4))


def products() -> list[Record]:
    """Catalogue texts of 20 to 60 words; read by the summaries and by the translations."""
    records: list[Record] = [
        {"sku": f"P{number:04d}", "body": item.text, "category": item.category, "lang": "en"}
        for number, item in enumerate(_items("products", NUM_PRODUCTS, 60, is_video=False), 1)
    ]
    bad = {"category": "lamp", "lang": "en"}
    records.insert(20, {"sku": "P9001", "body": None, **bad})
    records.insert(40, {"sku": "P9002", "body": "", **bad})
    records.insert(60, {"sku": "P0007", "body": records[30]["body"], **bad})
    records.append({"sku": "P9003", "body": b"The Ostow lamp \xff\xfe costs 49 EUR.", **bad})
    return records


def videos() -> list[Record]:
    """Video notes of 20 to 400 words."""
    records: list[Record] = [
        {"video_id": f"V{number:04d}", "notes": item.text, "topic": item.category}
        for number, item in enumerate(_items("videos", NUM_VIDEOS, 400, is_video=True), 1)
    ]
    records.insert(50, {"video_id": "V9001", "notes": too_long_text(), "topic": "tour"})
    records.insert(70, {"video_id": "V9002", "notes": None, "topic": "tour"})
    return records


def notes() -> list[Record]:
    """Notes of 40 weeks, one to three of them each."""
    rng = random.Random("samples-notes")
    records: list[Record] = []
    for week in range(1, NUM_GROUPS + 1):
        num_items = 1 + week % 3
        num_words = round(20 * 9 ** rng.random())
        for number, item in enumerate(draw_group(rng, num_words, num_items, held_out=True), 1):
            note_id = f"N{week:02d}-{number}"
            records.append({"note_id": note_id, "week": f"{FIRST_WEEK + week}", "text": item.text})
    return records


def night() -> list[Record]:
    """A job manifest in one file: three kinds, parameters as JSON."""
    records: list[Record] = []
    plan = (
        ("late-summaries", "summary", {"max_words": 40}, 5, 120, None),
        ("late-hooks", "hook", {"variants": 2}, 7, 48, None),
        ("late-translations", "translation", {}, 3, 200, "de"),
    )
    for index, item in enumerate(_items("night", 24, 60, is_video=False)):
        job, kind, params, priority, max_tokens, target_lang = plan[index % 3]
        records.append(
            {
                "job": job,
                "kind": kind,
                "id": f"J{index + 1:03d}",
                "text": item.text,
                "params": json.dumps(params),
                "priority": priority,
                "max_tokens": max_tokens,
                "target_lang": target_lang,
            }
        )
    return records


def _text_array(values: list[str | bytes | None]) -> pa.Array:
    """A string column; bytes go in as they are, so that undecodable text can be stored."""
    raw = [value.encode() if isinstance(value, str) else value for value in values]
    return pa.array(raw, pa.binary()).view(pa.string())


def to_table(records: list[Record]) -> pa.Table:
    """Columns in the order of the first record; integers as int32, all else as strings."""
    columns = {}
    for name in records[0]:
        values = [record[name] for record in records]
        is_int = isinstance(values[0], int)
        columns[name] = pa.array(values, pa.int32()) if is_int else _text_array(values)
    return pa.table(columns)


def main() -> None:
    """Write the four files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=Path(__file__).parent, type=Path)
    args = parser.parse_args()
    for make in (products, videos, notes, night):
        path = args.out / f"{make.__name__}.parquet"
        pq.write_table(to_table(make()), path, compression="zstd")
        print(f"{path.name}: {len(make())} rows, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
