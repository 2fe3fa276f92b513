"""The chat template of a job: its date, its variables, and what of them the request key holds."""

import json
import locale
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from thothy_batch.engine import model_info
from thothy_batch.engine.fake_model import ByteTokenizer
from thothy_batch.errors import ManifestError, ModelError
from thothy_batch.manifest.settings import load_manifest
from thothy_batch.model.tokenizer import ChatSettings
from thothy_batch.resources import data_path
from thothy_batch.runner.commands.plan import plan_manifest
from thothy_batch.runner.entries.prepare import prepare_entries
from thothy_batch.runner.planning import pipeline
from thothy_batch.runner.session import setup

DATED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'system' %}Today is {{ strftime_now('%A %d %B %Y, %H:%M') }}. {% endif %}"
    "{{ m.content }}{{ extra }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
MAY, SEPTEMBER = datetime(2026, 5, 1, 23, 59), datetime(2026, 9, 30, 7, 30)
JOB = "name: {name}, kind: summary, input: rows.parquet, sampling: {{max_tokens: 8}}"


@pytest.fixture
def dated(project: Any) -> Any:
    """Three rows, and the embedded model with a template that prints the date."""
    model = project.folder / "model"
    shutil.copytree(data_path("sample_data") / "model", model)
    (model / "chat_template.jinja").write_text(DATED)
    project.model = str(model)
    project.rows("rows.parquet", id=["a", "b", "c"], text=["Oak table.", "Larch.", "A lamp."])
    return project


def entries_of(project: Any, started: datetime, *jobs: str, more: str = "", **options: Any) -> Any:
    """(prompts, keys) of all entries of a run that began at a time."""
    jobs = jobs or (JOB.format(name="j"),)
    project.jobs(*jobs, model=project.model, more=more)
    manifest = load_manifest(project.manifest)
    inputs = pipeline.open_inputs(manifest, started=started)
    found = list(prepare_entries(inputs.jobs, inputs.render_context, **options))
    assert not [entry.message for entry in found if entry.code]
    decode = inputs.model_info.tokenizer.decode
    texts = [decode(entry.prompt_token_ids, skip_special=False) for entry in found]
    return texts, [entry.request_key for entry in found]


def test_prompts_show_the_day_of_the_run_and_keys_do_not(dated: Any) -> None:
    may, keys = entries_of(dated, MAY)
    september, again = entries_of(dated, SEPTEMBER)
    assert all("Today is Friday 01 May 2026, 23:59. " in text for text in may)
    assert all("Today is Wednesday 30 September 2026, 07:30. " in text for text in september)
    assert keys == again
    assert len(set(keys)) == 3


@pytest.mark.rest
def test_every_worker_shows_the_moment_at_which_the_run_began(dated: Any) -> None:
    assert entries_of(dated, MAY, num_workers=2) == entries_of(dated, MAY, num_workers=0)


def test_another_text_of_the_template_is_another_key(dated: Any) -> None:
    _, keys = entries_of(dated, MAY)
    (Path(dated.model) / "chat_template.jinja").write_text(DATED.replace("Today is", "Date:"))
    assert not set(keys) & set(entries_of(dated, MAY)[1])


def test_a_truncated_document_has_one_key_on_all_days(dated: Any) -> None:
    """A longer date leaves less room for the document; the key is made with the fixed date."""
    words = [f"word{i}" for i in range(400)]
    dated.rows("rows.parquet", id=["a"], text=[" ".join(words)])
    job = JOB.format(name="j").replace("max_tokens: 8", "max_tokens: 700")
    job += ", on_too_long: truncate_tail"
    (may,), keys = entries_of(dated, MAY, job)
    (september,), again = entries_of(dated, SEPTEMBER, job)
    assert keys == again
    last = [max(i for i, word in enumerate(words) if word in text) for text in (may, september)]
    assert max(last) < 399


def test_a_text_is_encoded_once_where_no_clock_is_read(dated: Any, monkeypatch: Any) -> None:
    from thothy_batch.model.tokenizer.tokenizer import Tokenizer

    calls = []
    once = Tokenizer.chat_ids

    def counted(self: Tokenizer, messages: Any) -> list[int]:
        calls.append(messages)
        return once(self, messages)

    monkeypatch.setattr(Tokenizer, "chat_ids", counted)
    entries_of(dated, MAY)
    assert len(calls) == 6
    calls.clear()
    undated = DATED.replace("strftime_now('%A %d %B %Y, %H:%M')", "'one day'")
    (Path(dated.model) / "chat_template.jinja").write_text(undated)
    entries_of(dated, MAY)
    assert len(calls) == 3


@pytest.fixture
def shifted_date(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """The calendar of a run's beginning; the test may let days pass."""
    shift = [timedelta(0)]

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + shift[0]

    monkeypatch.setattr(setup, "datetime", Shifted)

    def advance(by: timedelta) -> None:
        shift[0] += by

    return advance


class DatedBytes(ByteTokenizer):
    """The test model's tokenizer with a template that begins with the date."""

    reads_clock = True
    seen: ClassVar[set[str]] = set()  # dates that reached a prompt

    def __init__(self, settings: ChatSettings | None = None) -> None:
        self._now = settings.now if settings is not None else None

    def with_chat(self, settings: ChatSettings) -> "DatedBytes":
        return DatedBytes(settings)

    def render_chat(self, messages: Any) -> str:
        assert self._now is not None
        self.seen.add(f"{self._now:%Y-%m-%d}")
        return f"{self._now:%c}" + super().render_chat(messages)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Moves this process to another time zone and locale; it is brought back."""
    before = locale.setlocale(locale.LC_ALL)

    def move() -> None:
        monkeypatch.setenv("TZ", "Pacific/Kiritimati")
        time.tzset()
        locale.setlocale(locale.LC_ALL, "C.UTF-8")

    yield move
    locale.setlocale(locale.LC_ALL, before)
    monkeypatch.undo()
    time.tzset()


def test_a_night_that_is_resumed_another_day_in_another_place_computes_nothing_twice(
    project: Any, shifted_date: Any, elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_info, "ByteTokenizer", DatedBytes)
    project.rows("rows.parquet", id=["a", "b", "c"], text=["Oak table.", "Larch.", "A lamp."])
    project.jobs(JOB.format(name="j"))
    DatedBytes.seen.clear()
    assert project.run(limit=2).counts["num_done"] == 2
    assert len(DatedBytes.seen) == 2  # the day of the run, and the fixed one of the keys
    elsewhere()
    shifted_date(timedelta(days=40, hours=3))
    resumed = project.run()
    assert len(DatedBytes.seen) == 3
    assert (resumed.counts["num_done"], resumed.counts["num_reused"]) == (1, 2)


def test_a_job_overrides_the_variables_of_the_model_key_by_key(dated: Any) -> None:
    dated.manifest.write_text(
        f"model: {{id: '{dated.model}', chat_template_kwargs: {{extra: M, other: 1}}}}\n"
        "jobs:\n"
        f"  - {{{JOB.format(name='plain')}}}\n"
        f"  - {{{JOB.format(name='own')}, chat_template_kwargs: {{extra: [J]}}}}\n"
    )
    manifest = load_manifest(dated.manifest)
    inputs = pipeline.open_inputs(manifest, started=MAY)
    found = list(prepare_entries(inputs.jobs, inputs.render_context))
    decode = inputs.model_info.tokenizer.decode
    texts = {e.job.name: decode(e.prompt_token_ids) for e in found if e.item_id == "a"}
    assert "M\n" in texts["plain"]
    assert "['J']\n" in texts["own"]
    assert len({entry.request_key for entry in found}) == 6
    document = plan_manifest(dated.options(), dated.notes)
    assert "chat_template_kwargs: the chat template reads no 'other'" in document["notes"]
    assert "M<|im_end|>" in document["first_prompt"]


def test_variables_that_no_prompt_shows_change_no_key(dated: Any) -> None:
    plain = entries_of(dated, MAY)
    job = JOB.format(name="j") + ", chat_template_kwargs: {unknown: {a: [1, null, 2.5]}}"
    assert entries_of(dated, MAY, job) == plain


@pytest.mark.parametrize(
    "name",
    ["messages", "add_generation_prompt", "tools", "documents", "chat_template", "tokenize"],
)
def test_names_that_the_program_sets_are_refused_by_line(name: str, project: Any) -> None:
    project.manifest.write_text(
        f"model:\n  id: builtin:fake\n  chat_template_kwargs: {{{name}: 1}}\n"
        "jobs:\n  - name: j\n    kind: summary\n    input: rows.parquet\n"
        f"    chat_template_kwargs:\n      {name}: []\n"
    )
    with pytest.raises(ManifestError) as caught:
        load_manifest(project.manifest)
    lines = [problem.line for problem in caught.value.problems]
    assert lines == [3, 8]
    assert all(repr(name) in problem.message for problem in caught.value.problems)


@pytest.mark.parametrize("value", ["[1]", "x", "{x: .inf}", "{x: [.nan]}"])
def test_variables_are_a_mapping_of_plain_values(value: str, project: Any) -> None:
    project.manifest.write_text(
        f"model: {{id: 'builtin:fake', chat_template_kwargs: {value}}}\n"
        f"jobs: [{{{JOB.format(name='j')}}}]\n"
    )
    with pytest.raises(ManifestError, match="chat_template_kwargs"):
        load_manifest(project.manifest)


def test_a_template_that_drops_texts_stops_a_run_but_not_its_raw_jobs(dated: Any) -> None:
    (Path(dated.model) / "chat_template.jinja").write_text("{{ messages[0].role }}")
    with pytest.raises(ModelError, match=r"chat_template\.jinja: .* drops the user's text"):
        entries_of(dated, MAY)
    dated.rows("rows.parquet", id=["a"], prompt=["Once"])
    raw = "name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 8}"
    assert entries_of(dated, MAY, raw)[0] == ["Once"]


def test_a_row_that_the_template_refuses_fails_alone(dated: Any) -> None:
    template = (
        "{% if 'Larch' in messages[-1].content %}{{ raise_exception('no trees') }}{% endif %}"
    )
    (Path(dated.model) / "chat_template.jinja").write_text(template + DATED)
    dated.jobs(JOB.format(name="j"), model=dated.model)
    manifest = load_manifest(dated.manifest)
    inputs = pipeline.open_inputs(manifest, started=MAY)
    found = list(prepare_entries(inputs.jobs, inputs.render_context))
    assert [(entry.item_id, entry.code) for entry in found if entry.code] == [
        ("b", "template_error")
    ]
    assert "no trees" in found[1].message


def test_a_run_says_what_a_template_does_with_a_system_text(dated: Any) -> None:
    def notes(template: str | None) -> list[str]:
        file = Path(dated.model) / "chat_template.jinja"
        file.unlink(missing_ok=True)
        settings = json.loads((Path(dated.model) / "tokenizer_config.json").read_text())
        settings.pop("chat_template", None)
        (Path(dated.model) / "tokenizer_config.json").write_text(json.dumps(settings))
        if template is not None:
            file.write_text(template)
        dated.jobs(JOB.format(name="j"), model=dated.model)
        dated.notes.texts.clear()
        setup.prepare_run(dated.options(), dated.notes, "run")
        planned = plan_manifest(dated.options(), dated.notes)["notes"]
        assert [note for note in planned if "template" in note] == dated.notes.texts
        return list(dated.notes.texts)

    assert notes(DATED) == []
    assert notes("{{ messages[-1].content }}") == [
        "the model's chat template drops the system text: the system text is put before the "
        "user's text"
    ]
    (base,) = notes(None)
    assert "no chat template: system, document and instruction are joined by blank lines" in base
