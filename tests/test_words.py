"""The words of the code: the field's names, and docstrings that begin with their subject."""

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for name in ("thothy_batch", "kernels") for path in (ROOT / name).rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))

ENGINE, RUNNER, KV, PROCESS = (
    "thothy_batch/engine/",
    "thothy_batch/runner/",
    "thothy_batch/engine/kv_cache/",
    "thothy_batch/engine/process/",
)
SCHEDULING, CLI, KINDS = (
    "thothy_batch/engine/scheduling/",
    "thothy_batch/cli/",
    "thothy_batch/kinds/",
)
REPORT = ("thothy_batch/report/", CLI)
# Words that were replaced, each where it was: some have a right use elsewhere (`publish` in store).
REPLACED: dict[tuple[str, ...], str] = {
    ("thothy_batch/",): (
        "SupervisedEngine ChildEngine PromptPart StepOutcome KeptPrefixes Covered uncover "
        "unpublish drop_others hasten foresee unpark meet_need pop_due set_aside take_back "
        "num_aside too_late withdraw TimeLimits may_start _DOUBT Bisection StepBudget bury "
        "StepLauncher SentStep send_step StepBuffers SyntheticBatches tenants check_room "
        "UnsearchedBlocks FigureCache DeviceFigures Speed UnavoidableWork unavoidable_s Drafter "
        "Speculator num_right ModelFacts model_facts Forethought think_ahead Outlook look_ahead "
        "open_night look_again run_night plan_night Tried let_go hand_on morning_data Chains "
        "Holding Repeats night_stats NightStats Finished Answer AnswerBook heeded take_over "
        "LocalEngine make_starter"
    ),
    (ENGINE,): "Span Launched Drawn Layout Acceptance Ledger _settle settle growth retire abandon",
    (KV, SCHEDULING): "cover publish",
    (SCHEDULING,): "_make_room _make_way",
    (PROCESS,): "_bury _put_off _blame _told _hopeless _withheld",
    (RUNNER,): (
        "Ledger Setup Setting Night Work Attempts Account Receipt Pulse Starter settle _settle "
        "weigh end_run examine _prove ledger outlook forethought pulse"
    ),
    (KINDS,): "review finish",
    REPORT: "plain",
    (CLI,): "told leave",
    ("kernels/numba_simd/", "kernels/linear/"): "lanes matrix_tiles widened",
}
# `end_run` is a method of the store, which the runner calls.
RIGHT_USES = {
    ("thothy_batch/runner/loop/finish.py", "end_run"),
    ("thothy_batch/runner/commands/run.py", "end_run"),
}
OLD_MODULES = re.compile(
    r"thothy_batch[./](engine[./](client|supervised|facts|assembly|loaded|local|fake|bisection|step_budget|span|"
    r"time_limits|drafting|acceptance|speculation|death_notices|synthetic|gpu_tenants|upload)|"
    r"runner[./](night|opening|outlook|forethought|assignment|accounting|attempts|closing|morning|"
    r"pulse|receipt|starter|stopping)|cli[./](look|machine|wording|night))\b"
)
FIRST_WORDS = {"of", "who", "whoever", "whose", "whom", "what", "where", "how", "whether"}
PERSONS = re.compile(r"\b(whoever|whom|nobody|somebody|everybody|who)\b", re.IGNORECASE)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    """(line, name) of each name that a file defines, takes, assigns, reads or imports."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.alias):
            yield node.lineno, (node.asname or node.name).rpartition(".")[2]
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.value.lineno, node.arg


@pytest.mark.rest
def test_no_replaced_name_is_left() -> None:
    found = []
    for path in FILES:
        place = relative(path)
        old = {
            word
            for scopes, words in REPLACED.items()
            for word in words.split()
            if place.startswith(scopes) and (place, word) not in RIGHT_USES
        }
        found += [f"{place}:{line}: {name}" for line, name in identifiers(path) if name in old]
        text = path.read_text(encoding="utf-8")
        found += [f"{place}: {match[0]}" for match in OLD_MODULES.finditer(text)]
    assert not found, "\n".join(found)


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    pending: list[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]
    pending = [parsed(path)]
    while pending:  # statements alone: walking through all expressions takes five times as long
        node = pending.pop()
        if text := ast.get_docstring(node):
            yield getattr(node, "lineno", 1), text
        for inner in node.body:
            if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                pending.append(inner)


@pytest.mark.rest
def test_docstrings_begin_with_their_subject() -> None:
    found = [
        f"{relative(path)}:{line}: {text.splitlines()[0]}"
        for path in [*FILES, *TEST_FILES]
        for line, text in docstrings(path)
        if re.split(r"\W+", text.lstrip("`\"'("), maxsplit=1)[0].lower() in FIRST_WORDS
    ]
    assert not found, "\n".join(found)


@pytest.mark.rest
def test_nothing_but_a_person_is_spoken_of_as_a_person() -> None:
    found = [
        f"{relative(path)}:{line}: {text_line.strip()}"
        for path in FILES
        for line, text in [*docstrings(path), *comments(path)]
        for text_line in text.splitlines()
        if PERSONS.search(text_line)
    ]
    assert not found, "\n".join(found)


def comments(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
