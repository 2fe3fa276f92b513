"""Log lines: on stderr alone, as THOTHY_LOG and --verbose ask for them."""

import errno
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thothy_batch.cli.main import app
from thothy_batch.errors import ManifestError
from thothy_batch.logs import (
    LogSetting,
    child_environment,
    collected_warnings,
    configure_logging,
    logged_run,
)

LOG = logging.getLogger("thothy_batch.somewhere")
MANIFEST = """model: {id: "builtin:fake"}
jobs: [{name: j, kind: raw, input: {sql: "select 1 as id, 'one' as prompt"}}]
"""


@pytest.fixture(autouse=True)
def _as_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Handlers and levels are those of before, and so is the environment."""
    monkeypatch.delenv("THOTHY_LOG", raising=False)
    loggers = [logging.getLogger(name) for name in (None, "thothy_batch", "thothy_kernels")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("", LogSetting(logging.WARNING)),
        ("info", LogSetting(logging.INFO)),
        ("DEBUG", LogSetting(logging.DEBUG)),
        ("json", LogSetting(logging.INFO, as_json=True)),
        ("json, debug", LogSetting(logging.DEBUG, as_json=True)),
        ("warning,json", LogSetting(logging.WARNING, as_json=True)),
    ],
)
def test_a_setting_is_read_and_written(text: str, setting: LogSetting) -> None:
    assert LogSetting.parse(text) == setting
    assert LogSetting.parse(str(setting)) == setting


def test_an_unknown_setting_is_bad_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THOTHY_LOG", "loud")
    with pytest.raises(ManifestError, match="THOTHY_LOG is 'loud'") as error:
        configure_logging()
    assert "debug, info, warning or json" in error.value.hint


def test_warnings_are_shown_and_the_rest_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown() -> list[str]:
        LOG.warning("careful")
        LOG.info("by the way")
        LOG.debug("in detail")
        captured = capsys.readouterr()
        assert captured.out == ""
        return [line.rpartition(": ")[2] for line in captured.err.splitlines()]

    configure_logging()
    assert shown() == ["careful"]
    configure_logging(verbose=True)
    assert shown() == ["careful", "by the way"], "once each, though it was set up twice"
    monkeypatch.setenv("THOTHY_LOG", "debug")
    configure_logging()
    assert shown() == ["careful", "by the way", "in detail"]
    assert child_environment() == {"THOTHY_LOG": "debug"}


def test_a_line_names_its_time_level_and_logger(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(clean=str.upper)
    LOG.warning("pass%s", "word=secret")
    date, _, rest = capsys.readouterr().err.partition(" ")
    assert datetime.fromisoformat(date)
    assert rest.partition(" ")[2] == "WARNING THOTHY_BATCH.SOMEWHERE: PASSWORD='***'\n"


def test_libraries_show_their_warnings_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THOTHY_LOG", "debug")
    configure_logging()
    library = logging.getLogger("a_library")
    library.debug("chatter")
    library.warning("deprecated")
    assert capsys.readouterr().err.splitlines()[0].endswith("a_library: deprecated")


def test_json_is_an_object_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THOTHY_LOG", "json")
    configure_logging()
    LOG.info("two\nlines")
    with logged_run("r-1"):
        try:
            raise ValueError("api_key=abc")
        except ValueError:
            LOG.exception("failed")
    LOG.info("after")
    first, second, third = map(json.loads, capsys.readouterr().err.splitlines())
    assert datetime.fromisoformat(first.pop("time")).tzinfo
    assert first == {
        "level": "info",
        "logger": "thothy_batch.somewhere",
        "message": "two\nlines",
    }
    assert (second["run_id"], second["message"]) == ("r-1", "failed")
    assert second["exception"].endswith("ValueError: api_key='***'")
    assert "run_id" not in third


def test_lines_of_a_run_name_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of its engine process, too."""
    configure_logging()
    with logged_run("r-1"):
        LOG.warning("careful")
        assert child_environment()["THOTHY_LOG_RUN"] == "r-1"
    LOG.warning("after")
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\S+ \S+ r-1 WARNING thothy_batch.somewhere: careful", first)
    assert re.fullmatch(r"\S+ \S+ WARNING thothy_batch.somewhere: after", second)
    assert "THOTHY_LOG_RUN" not in child_environment()


class _FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_record_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging()
    monkeypatch.setattr(sys, "stderr", _FullDisk())
    LOG.warning("nowhere to go")


def test_warnings_are_collected_for_a_document() -> None:
    with collected_warnings() as found:
        LOG.warning("%s cannot be written", "a file")
        LOG.info("not this")
    LOG.warning("nor this")
    assert found == ["a file cannot be written"]


def test_an_import_sets_up_nothing() -> None:
    code = (
        "import logging, thothy_batch.cli.main, thothy_batch.engine.process.worker as w\n"
        "print(logging.getLogger().handlers, logging.getLogger('thothy_batch').handlers)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


def test_every_command_takes_verbose() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        text = CliRunner().invoke(app, [command.callback.__name__, "--help"]).output
        assert "--verbose" in text
        assert "-v" in text


def test_log_lines_stay_off_stdout(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST)
    command = [sys.executable, "-m", "thothy_batch", "run", "m.yaml", "--json", "-v", "--quiet"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"THOTHY_LOG": "json"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert any("engine process" in line["message"] for line in lines)
    assert {line["run_id"] for line in lines} == {document["run_id"]}
