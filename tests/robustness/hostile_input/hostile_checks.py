"""Properties that hold for every run, whatever its rows, its files and its model said."""

import csv
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from hostile_rows import SENTINEL

CODES = ("invalid_input", "template_error", "prompt_too_long", "invalid_output", "engine_error")
STATUSES = ("done", "failed", "reused", "not_run")
_COUNTS = ("num_items", "num_done", "num_failed", "num_reused", "num_not_run")
# What turns the direction of writing, or ends a line where none was meant.
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
# What the live display itself needs: colours, the cursor on and off, up a line, clear a line.
_DRAWING = re.compile(r"\x1b\[(?:\?25[lh]|1A|2K|[0-9;]*m)|\r")
_BLINKING = "\x1b[31;5;7m"  # the one colour that is written in a row


def check_counts(store: Path) -> dict[str, dict[str, int]]:
    """runs, job_stats and run_items say the same; each entry has one end, and words for it.

    Returns, by run, how many entries ended in which status and how many failures have which code.
    """
    found: dict[str, dict[str, int]] = {}
    with duckdb.connect(str(store), read_only=True) as connection:
        runs = connection.execute(
            f"select run_id, {', '.join(_COUNTS)} from runs order by started_at"
        ).fetchall()
        for run_id, *counts in runs:
            sums = ", ".join(f"sum({name})::bigint" for name in _COUNTS)
            (jobs,) = _rows(connection, f"select {sums} from job_stats where run_id = ?", run_id)
            ends = dict(_rows(connection, f"{_BY_STATUS} where run_id = ? group by all", run_id))
            assert tuple(counts) == jobs
            assert counts[0] == sum(counts[1:]) == sum(ends.values())
            assert [ends.get(s, 0) for s in STATUSES] == [counts[n] for n in (1, 2, 3, 4)]
            codes = dict(_rows(connection, f"{_BY_CODE} where run_id = ? group by all", run_id))
            # What a later run did not compute again keeps its failure of an earlier one.
            assert sum(codes.values()) == ends.get("failed", 0) or (found and not ends.get("done"))
            assert set(codes) <= set(CODES)
            found[run_id] = {**ends, **codes}
        assert not _rows(connection, _TWICE)
        assert not _rows(connection, _WITHOUT_END)
        assert not _rows(connection, "select 1 from failures where coalesce(message, '') = ''")
    return found


_BY_STATUS = "select status, count(*) from run_items"
_BY_CODE = "select code, count(*) from failures"
_TWICE = "select 1 from run_items group by run_id, job, item_id, variant having count(*) > 1"
# An entry that is done has its artifact. One that failed has one failure: of its run, or of an
# earlier one where it was not computed again.
_WITHOUT_END = """
select i.run_id, i.job, i.item_id, i.variant, i.status
from run_items i
left join artifacts a on a.artifact_id = i.artifact_id and (a.job, a.item_id, a.variant) =
    (i.job, i.item_id, i.variant)
left join failures f on (f.job, f.item_id, f.variant) = (i.job, i.item_id, i.variant)
group by all
having (count(a.artifact_id) > 0) != (i.status in ('done', 'reused'))
    or count(distinct a.artifact_id) > 1
    or count(f.message) filter (f.run_id = i.run_id) > if(i.status = 'failed', 1, 0)
    or (i.status = 'failed' and count(f.message) = 0)
"""


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, *values: object) -> list[Any]:
    return connection.execute(sql, list(values)).fetchall()


def check_terminal(text: str, *, drawn: bool = False) -> None:
    """Nothing in it is obeyed by a terminal but new lines and tabs; `drawn`: and live drawing."""
    if drawn:
        assert _BLINKING not in text
        text = _DRAWING.sub("", text)
    wrong = {c for c in text if (_is_control(c) and c not in "\n\t") or c in _DIRECTIONS}
    where = min((text.index(c) for c in wrong), default=0)
    assert not wrong, f"{sorted(map(ascii, wrong))}: {ascii(text[max(0, where - 80) : where + 40])}"


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")


def check_json(text: str) -> Any:
    """One document of strict JSON that may be shown on a terminal."""
    check_terminal(text)
    return json.loads(text, parse_constant=_no_number)


def _no_number(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def check_exports(store: Path, files: dict[str, Path]) -> None:
    """Parquet and JSON lines give back exactly what the store has, CSV as many rows and columns."""
    query = "select * exclude (created_at, data), data::varchar as data from latest_artifacts"
    order = " order by job, item_id, variant"
    with duckdb.connect(str(store), read_only=True) as connection:
        kept = connection.sql(query + order).to_arrow_table()
    exported = pq.read_table(files["parquet"])
    assert exported.num_rows == kept.num_rows > 0
    for name in kept.column_names:
        assert exported[name].to_pylist() == kept[name].to_pylist(), name
    _check_lines(files["jsonl"], kept)
    csv.field_size_limit(2**31 - 1)
    with files["csv"].open(encoding="utf-8", newline="") as file:
        table = list(csv.reader(file, strict=True))
    assert len(table) == kept.num_rows + 1
    assert {len(row) for row in table} == {exported.num_columns}


def _check_lines(path: Path, kept: pa.Table) -> None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert len(rows) == kept.num_rows
    for name in ("job", "item_id", "variant", "text", "flags", "verdict"):
        assert [row[name] for row in rows] == kept[name].to_pylist(), name
    data = [None if text is None else json.loads(text) for text in kept["data"].to_pylist()]
    assert [row["data"] for row in rows] == data


def check_nothing_was_carried_out(folder: Path, before: set[str]) -> None:
    """No row made a file, here or where its path pointed."""
    made = {path.name for path in folder.iterdir()} - before
    assert not made, made
    assert not Path("/tmp", SENTINEL).exists()
    assert not Path(SENTINEL).exists()
