"""Reports have the right figures, and no text of a row or a model acts in the reader's window."""

import html.parser
import re
from typing import Any

import pytest
from report_text import render_text

from thothy_batch.report import formatting
from thothy_batch.report.html import render_html

NASTY = "<script>alert(1)</script>\x1b[2J\x07\u202e\u2028 'q' \"d\" &amp; \x9b31m\r\nnext"


def _run(**more: Any) -> dict[str, Any]:
    run = dict.fromkeys(
        ("stop_reason", "exit_code", "finished_at", "manifest", "manifest_hash", "engine")
        + ("versions", "roofline_fraction", "engine_ready_at", "last_seen_at", "load_s")
    )
    counts = {"num_items": 1619, "num_done": 1204, "num_failed": 3, "num_reused": 412}
    tokens = {"prompt_tokens": 2000, "cached_prompt_tokens": 500, "output_tokens": 700}
    speeds = {"output_tokens_per_s": 338.4, "artifacts_per_hour": 1245.0, "engine_s": 3480.0}
    place = {"run_id": "r7", "name": "nightly", "status": "completed", "host": "box"}
    return {
        **run, **counts, **tokens, **speeds, **place, "num_not_run": 0, "wasted_tokens": 88,
        "started_at": "2026-11-22T22:30:00.000+01:00", "wall_s": 3725.0, "model": {"name": "tiny"},
        **more,
    }  # fmt: skip


def _job(**more: Any) -> dict[str, Any]:
    counts = {"num_done": 1204, "num_reused": 412, "num_failed": 3, "num_not_run": 0}
    rest = {"num_flagged": 7, "output_tokens_per_s": 338.4, "artifacts_per_hour": 1245.0}
    times = {"queue_s_p50": 1.25, "queue_s_p95": 300.0, "output_tokens_p50": 52.5}
    reasons = {"finish_reasons": {"stop": 1200, "length": 4}, "output_tokens_p95": 81.0}
    return {
        "job": "titles",
        "kind": "hook",
        "priority": 5,
        **counts,
        **rest,
        **times,
        **reasons,
        **more,
    }


def _night(**more: Any) -> dict[str, Any]:
    changes = {"output_tokens_per_s_change": -0.123, "artifacts_per_hour_change": 0.05}
    return {**_run(), **changes, "engine_s_change": None, "num_compared": 1, **more}


def _data(**more: Any) -> dict[str, Any]:
    example = {"job": "titles", "item_id": "sku-1", "variant": "de", "message": "5 > 4"}
    failures = [{"code": "prompt_too_long", "num": 3, "examples": [example]}]
    steps = [
        {"at_s": float(n), "decode_tokens_per_s": 100.0 + n, "prefill_tokens_per_s": None}
        for n in range(1, 50)
    ]
    data = {"store": "a.duckdb", "run": _run(), "jobs": [_job()], "failures": failures}
    lists = {"flags": [{"job": "titles", "flag": "one_line", "num": 7}], "steps": steps}
    died = {"happened_at": "2026-11-24T01:10:00.000+00:00", "message": "the engine died: signal 9"}
    lists["events"] = [died] * 12
    return {**data, **lists, "nights": [_night(), _night(run_id="r6")], **more}


def _nasty() -> dict[str, Any]:
    example = {"job": NASTY, "item_id": NASTY, "variant": NASTY, "message": NASTY}
    return _data(
        run=_run(
            name=NASTY, host=NASTY, run_id=NASTY, stop_reason=NASTY, status="failed",
            model={NASTY: NASTY, "name": NASTY}, engine={"x": [NASTY]}, versions={NASTY: 1},
        ),
        jobs=[_job(job=NASTY, kind=NASTY, finish_reasons={NASTY: 1})],
        failures=[{"code": NASTY, "num": 9, "examples": [example]}],
        flags=[{"job": NASTY, "flag": NASTY, "num": 1}],
        events=[{"happened_at": None, "message": NASTY}],
        nights=[_night(status=NASTY, name=NASTY), _night(status=NASTY)],
    )  # fmt: skip


def test_the_text_has_the_figures_of_the_run() -> None:
    text = render_text(_data())
    first = text.splitlines()[0]
    assert first == "nightly r7: completed, 3 entries failed after 1 h 02 min"
    for part in (
        "1,204 artifacts made, 412 reused, 3 failed, 0 not run, of 1,619 entries",
        "1,245 artifacts an hour, 338 output tokens a second",
        "prompt_too_long: 3",
        "titles / sku-1 [de]: 5 > 4",
        "and 2 more",
        "7 artifacts, stored but worth a look",
        "of which 500 (25.0 %) shared",
        "wasted: 88 (3.8 % of what was computed)",
        "-12.3 % tokens/s, +5.0 % artifacts an hour",
        "What to do: shorten the rows",
        "the engine died: signal 9",
        "and 2 more events",
    ):
        assert part in text, part
    assert max(len(line) for line in text.splitlines()) <= 130


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"status": "stopped", "stop_reason": "deadline", "num_not_run": 5}, "at the deadline"),
        ({"status": "failed", "stop_reason": "killed", "wall_s": None}, "killed: its process died"),
        ({"status": "failed", "stop_reason": "disk full"}, "failed: disk full"),
        ({"status": "running", "stop_reason": None, "wall_s": None}, "is running"),
        ({"num_failed": 0}, "completed after"),
    ],
)
def test_the_ending_is_written_in_words(run: dict[str, Any], said: str) -> None:
    data = _data(run=_run(**run))
    assert said in render_text(data).splitlines()[0]
    assert said.removesuffix(" after") in render_html(data)
    again = "Run the same command again" in render_text(data)
    assert again == (run.get("num_not_run", 0) > 0 or run.get("status") == "failed")


def test_an_empty_run_and_one_in_progress_can_be_rendered() -> None:
    nothing = {name: None for name in _run()}
    run = {**nothing, "run_id": "r1", "status": "running", "name": None}
    jobs = [{"job": "j", "kind": "", "num_items": None, "num_done": 1}]
    lists = dict.fromkeys(("failures", "flags", "steps", "events", "nights"), [])
    data = {"store": "s", "run": run, **lists}
    for some in ([], jobs):
        assert "r1" in render_text({**data, "jobs": some})
        page = render_html({**data, "jobs": some})
        assert "<svg" not in page
        assert "None" not in page


@pytest.mark.parametrize("render", [render_text, render_html])
def test_thousands_of_events_are_counted_and_not_listed(render: Any) -> None:
    died, raised = (
        {"happened_at": "2026-11-24T01:10:00.000+00:00", "event": event, "message": f"it {event}"}
        for event in ("engine_died", "step_budget_raised")
    )
    few, many = (render(_data(events=[died, raised] * num)) for num in (2, 5000))
    assert "more events" not in few
    listed = many.count("it engine_died") + many.count("it step_budget_raised")
    assert 0 < listed <= 100
    half = f"{(10_000 - listed) // 2:,}"
    assert f"and {10_000 - listed:,} more events ({half} engine_died, {half} step_" in many
    assert len(many) < len(few) + 30_000


def test_no_control_character_reaches_a_terminal() -> None:
    text = render_text(_nasty())
    for character in text:
        assert character == "\n" or character.isprintable(), hex(ord(character))
    assert "\\x1b[2J\\x07\\u202e\\u2028" in text
    assert not any(line.startswith("next") for line in text.splitlines())


class _Tags(html.parser.HTMLParser):
    """Collects tags and attributes, and checks that they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("data", [_data(), _nasty()], ids=["plain", "nasty"])
def test_the_page_is_whole_and_loads_and_runs_nothing(data: dict[str, Any]) -> None:
    page = render_html(data)
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    assert not tags.tags & {"script", "link", "img", "iframe", "object", "base", "form", "a"}
    assert not {name for name in tags.attributes if name.startswith("on")} | (
        tags.attributes & {"src", "href", "xlink:href", "srcset", "action"}
    )
    assert not re.search(r"https?://|url\(|@import", page)
    assert "default-src 'none'" in page
    assert all(character == "\n" or character.isprintable() for character in page)


def test_the_page_escapes_untrusted_text() -> None:
    page = render_html(_nasty())
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J" in page
    assert "&#39;q&#39; &#34;d&#34; &amp;amp;" in page


def test_the_page_works_in_dark_and_light_and_draws_the_speed() -> None:
    page = render_html(_data())
    assert "prefers-color-scheme: dark" in page
    (points,) = re.findall(r'class="decode" points="([^"]*)"', page)
    pairs = [tuple(map(float, pair.split(","))) for pair in points.split()]
    assert len(pairs) == 49
    assert [x for x, _ in pairs] == sorted(x for x, _ in pairs)
    assert all(0 <= x <= 880 and 0 <= y <= 220 for x, y in pairs)
    assert pairs[-1][1] < pairs[0][1]  # faster is higher


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (formatting.duration(0.04), "0.0 s"),
        (formatting.duration(59.6), "1 min 00 s"),
        (formatting.duration(3599.7), "1 h 00 min"),
        (formatting.duration(86400), "24 h 00 min"),
        (formatting.duration(None), "–"),
        (formatting.rate(9.96), "10.0"),
        (formatting.rate(1234.5), "1,234"),
        (formatting.share(1, 0), "–"),
        (formatting.share(1, 3), "33.3 %"),
        (formatting.change(0.0), "+0.0 %"),
        (formatting.sanitize("x" * 500, 10), "x" * 9 + "…"),
        (formatting.sanitize(None), ""),
        (formatting.sanitize("a\x07\u202e\U000e0041"), "a\\x07\\u202e\\U000e0041"),
        (formatting.sanitize("می\u200cخواهم 👩\u200d🔬"), "می\u200cخواهم 👩\u200d🔬"),
        (formatting.clock("2026-11-22T22:30:00.000+01:00"), "2026-11-22 22:30"),
    ],
)
def test_figures_are_written_for_people(value: str, shown: str) -> None:
    assert value == shown
