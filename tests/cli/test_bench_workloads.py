"""Workloads: generated requests are exact, and unusable rows of files are named."""

from array import array
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench_cases import FAKE, VOCAB, assert_adds_up, rows_file, run_fake, sums

from thothy_batch.bench.files import file_workload, raw_workload, trace_workload
from thothy_batch.bench.workload import Lengths, documents_workload, lengths_workload
from thothy_batch.errors import ManifestError


def test_lengths_lie_between_their_ends_and_go_by_the_seed() -> None:
    lengths = Lengths.parse("10-30/2-5")
    one, same, other = (
        lengths_workload(lengths, num_requests=200, vocab_size=VOCAB, seed=seed)
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one.requests != other.requests
    prompts = {len(request.prompt_token_ids) for request in one.requests}
    outputs = {request.sampling.max_tokens for request in one.requests}
    assert (min(prompts), max(prompts), outputs) == (10, 30, {2, 3, 4, 5})
    ids = {token for request in one.requests for token in request.prompt_token_ids}
    assert (min(ids), max(ids)) == (0, VOCAB - 1)
    assert all(request.sampling.ignore_eos for request in one.requests)
    assert_adds_up(run_fake(one), one)


def test_a_document_is_computed_once_for_all_its_artifacts() -> None:
    made = documents_workload(
        5, document_tokens=96, artifacts=4, lengths=Lengths.parse("8/6"), vocab_size=VOCAB
    )
    shared = run_fake(made)
    assert_adds_up(shared, made)
    assert shared.prefill_tokens == shared.planned_prompt_tokens == 5 * (96 + 4 * 8)
    alone = run_fake(made, prefix_sharing=False)
    assert_adds_up(alone, made)
    assert alone.cached_prompt_tokens == 0
    names = [request.request_key for request in made.requests]
    assert len(set(names)) == 20
    assert names != sorted(names), "documents come in random order"


@pytest.mark.parametrize("text", ["9/0", "4-3/9", "9" * 5000 + "/8", f"8/{(1 << 24) + 1}", "8/1e3"])
def test_lengths_that_no_model_has_are_refused(text: str) -> None:
    with pytest.raises(ManifestError, match="not the lengths of prompts") as error:
        Lengths.parse(text)
    assert "16,777,216 is the most" in error.value.hint


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_trace_gives_its_lengths(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"trace.{ending}"
    if ending == "csv":
        path.write_text("at,prompt_tokens,output_tokens\n0,30,4\n1,7,\n2,12,9\n3,x,1\n")
    else:
        rows_file(path, prompt_tokens=[30, 7, 12, -1], output_tokens=[4, None, 9, 1])
    found = file_workload(path, vocab_size=VOCAB)
    assert sums(found) == (42, 13)
    assert [row.name for row in found.refused] == ["row 2", "row 4"]
    assert "output_tokens is null" in found.refused[0].message
    assert_adds_up(run_fake(found), found)
    assert sums(file_workload(path, vocab_size=VOCAB, limit=1)) == (30, 4)


def test_a_trace_shares_the_blocks_that_it_names(tmp_path: Path) -> None:
    path = rows_file(
        tmp_path / "trace.parquet",
        prompt_tokens=[70, 64, 33],
        output_tokens=[2, 2, 2],
        hash_ids=[[1, 2, 3], [1, 2], [1, 9]],
    )
    found = trace_workload(path, vocab_size=VOCAB)
    a, b, c = (list(request.prompt_token_ids) for request in found.requests)
    assert (len(a), len(b), len(c)) == (70, 64, 33)
    assert a[:64] == b
    assert a[:32] == c[:32]
    figures = run_fake(found)
    assert_adds_up(figures, found)
    # b's last token is computed whatever is shared, and with it its block.
    assert figures.prefill_tokens == 70 + 32 + 1


def test_a_trace_in_csv_shares_the_blocks_that_it_names(tmp_path: Path) -> None:
    cells = ["[1, 2, 3]", "[1,2]", " [ 1 , 9 ] ", "[]", "[1, x]", "7", "", "[[1]]", "["]
    lengths = [70, 64, 33, 32, 64, 32, 32, 32, 32]
    lines = [f'{n},2,"{cell}"\n' for n, cell in zip(lengths, cells, strict=True)]
    path = tmp_path / "trace.csv"
    path.write_text("prompt_tokens,output_tokens,hash_ids\n" + "".join(lines))
    found = trace_workload(path, vocab_size=VOCAB)
    a, b, c = (list(request.prompt_token_ids) for request in found.requests)
    assert (len(a), a[:64], a[:32]) == (70, b, c[:32])
    assert [row.name for row in found.refused] == [f"row {number}" for number in range(4, 10)]
    assert {row.message for row in found.refused} == {"hash_ids is not a list of ids"}
    assert run_fake(found).prefill_tokens == 70 + 32 + 1


def test_prompts_in_csv_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text('prompt_token_ids,max_tokens\n"[5, 6, 7]",4\n"[5, x]",4\n[],4\n')
    found = file_workload(path, vocab_size=VOCAB)
    assert [list(request.prompt_token_ids) for request in found.requests] == [[5, 6, 7]]
    assert [row.name for row in found.refused] == ["row 2", "row 3"]


@pytest.mark.parametrize("length", ["900000000000000", "9" * 5000, "9" * 30, "16777217", "-1", "0"])
def test_a_row_beyond_what_can_be_run_is_refused_by_name(tmp_path: Path, length: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(
        "prompt_tokens,output_tokens,hash_ids\n"
        f'30,4,"[1, 2]"\n{length},4,"[1, 2]"\n30,{length},"[1, 2]"\n'
    )
    found = trace_workload(path, vocab_size=VOCAB)
    assert sums(found) == (30, 4)
    assert [row.name for row in found.refused] == ["row 2", "row 3"]
    for row, name in zip(found.refused, ("prompt_tokens", "output_tokens"), strict=True):
        assert f"{name} is" in row.message
        assert "not a whole number from 1 to 16,777,216" in row.message
        assert len(row.message) < 200


def test_one_row_without_a_length_fails_no_other_that_names_blocks(tmp_path: Path) -> None:
    path = rows_file(
        tmp_path / "trace.parquet",
        prompt_tokens=[70, -1, None, 64, 64],
        output_tokens=[2] * 5,
        hash_ids=[[1, 2, 3], [1, 2], [1], [], [1, 2]],
    )
    found = trace_workload(path, vocab_size=VOCAB)
    assert sums(found) == (134, 4)
    assert [row.name for row in found.refused] == ["row 2", "row 3", "row 4"]


def test_a_limit_beyond_any_file_is_none(tmp_path: Path) -> None:
    path = rows_file(tmp_path / "w.parquet", prompt_tokens=[3], output_tokens=[4])
    assert sums(file_workload(path, vocab_size=VOCAB, limit=10**30)) == (3, 4)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": ["a"]}, "no column prompt_tokens and no column output_tokens, only text"),
        ({"prompt_token_ids": [[1]]}, "no column max_tokens"),
        ({"prompt_tokens": [4], "output_tokens": [None]}, "row 1: output_tokens is null"),
        ({"prompt_tokens": [], "output_tokens": []}, "no usable row"),
        (
            {"prompt_tokens": [70], "output_tokens": [1], "hash_ids": [[1, 2, 3, 4, 5, 6]]},
            "hash_ids do not name the blocks",
        ),
    ],
)
def test_a_file_without_requests_is_an_error(
    tmp_path: Path, columns: dict[str, Any], words: str
) -> None:
    path = rows_file(tmp_path / "w.parquet", **columns)
    with pytest.raises(ManifestError, match=words):
        file_workload(path, vocab_size=VOCAB)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    for name in ("w.parquet", "w.csv"):
        (tmp_path / name).write_bytes(b"\xff\xfe no table")
        with pytest.raises(ManifestError, match=f"{name} cannot be read as"):
            file_workload(tmp_path / name, vocab_size=VOCAB)


@pytest.mark.parametrize("name", ["azure2023_conv", "arxiv_summarization_lengths"])
def test_real_traces_give_their_lengths(shared: Path, name: str) -> None:
    path = shared / f"data/traces/{name}.parquet"
    rows = pq.read_table(path).slice(0, 12).to_pydict()
    found = trace_workload(path, vocab_size=VOCAB, limit=12)
    assert sums(found) == (sum(rows["prompt_tokens"]), sum(rows["output_tokens"]))
    figures = run_fake(found, model=f"{FAKE}?context=16000")
    assert_adds_up(figures, found)


def test_real_blocks_are_found_in_their_length(shared: Path) -> None:
    path = shared / "data/traces/mooncake_conversation.parquet"
    rows = pq.read_table(path).slice(0, 30).to_pylist()
    found = trace_workload(path, vocab_size=VOCAB, limit=30)
    prompts = [list(request.prompt_token_ids) for request in found.requests]
    assert [len(prompt) for prompt in prompts] == [row["prompt_tokens"] for row in rows]
    firsts = {row["hash_ids"][0] for row in rows}
    assert len({tuple(prompt[:512]) for prompt in prompts}) == len(firsts)


def test_a_workload_of_the_peers_is_read_as_it_is(tmp_path: Path) -> None:
    ids = pa.array([[5, 6, 7], [8]], pa.list_(pa.int32()))
    path = rows_file(tmp_path / "w.parquet", prompt_token_ids=ids, max_tokens=[4, 2])
    found = raw_workload(path)
    assert [request.prompt_token_ids for request in found.requests] == [
        array("i", [5, 6, 7]),
        array("i", [8]),
    ]
    assert_adds_up(run_fake(found), found)
