"""No template hangs a run or fills memory: not a kind's, not a checkpoint's."""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thothy_batch import kinds
from thothy_batch.errors import ModelError
from thothy_batch.kinds.kind import Stage
from thothy_batch.model.tokenizer.chat_template import ChatTemplate
from thothy_batch.templating import sandbox

_TOO_LONG = "beyond 4,000,000 characters"
_DOUBLING = (
    "{%% set ns = namespace(x=%s) %%}{%% for i in range(60) %%}{%% set ns.x = %s %%}{%% endfor %%}"
)
_LARGE_SET = "{% set x = 'x' * 3000000 %}"
LARGE = {
    "{{ 'a' * 1000000000 }}": _TOO_LONG,
    "{{ [1] * 1000000000 }}": _TOO_LONG,
    "{{ [[1] * 3000] * 3000 }}": _TOO_LONG,
    "{{ 10 ** 10 ** 8 }}": "powers",
    "{{ 'x' | center(1000000000) }}": _TOO_LONG,
    "{{ 'x'.center(1000000000) }}": _TOO_LONG,
    "{{ 'x'.ljust(1000000000) }}": _TOO_LONG,
    "{{ '1'.encode().zfill(1000000000) }}": _TOO_LONG,
    '{{ "%999999999d" % 1 }}': "width",
    '{{ "%*d" % (999999999, 1) }}': "width",
    '{{ "%.999999999f" % 1 }}': "width",
    '{{ "%999999999d" | format(1) }}': "width",
    "{{ '{:>999999999}'.format(1) }}": "width",
    "{{ '{:>{}}'.format(1, 999999999) }}": "width",
    "{{ '{a:>999999999}'.format_map({'a': 1}) }}": "width",
    "{{ ('{0}' * 1000).format('x' * 3000000) }}": _TOO_LONG,
    "{{ ('%s' * 1000) | format('x' * 3000000) }}": _TOO_LONG,
    "{{ 'x' | indent(1000000000, true) }}": _TOO_LONG,
    "{{ ('x ' * 1000000) | wordwrap(1, true, 'y' * 10000) }}": _TOO_LONG,
    "{{ ('x' * 1000000) | wordwrap(1) }}": "a word has",
    "{{ (['a' * 3000000] * 3000) | join }}": _TOO_LONG,
    "{{ range(90000) | join('y' * 100000) }}": _TOO_LONG,
    "{{ ('y' * 100000).join(['a'] * 90000) }}": _TOO_LONG,
    "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}": _TOO_LONG,
    "{{ 'abc'.replace('', 'b' * 2000000) }}": _TOO_LONG,
    "{{ ('a' * 9999).translate({97: 'b' * 100000}) }}": "unsafe",
    "{{ (1).to_bytes(1000000000, 'big') }}": "unsafe",
    "{{ '\\t'.expandtabs(1000000000) }}": "unsafe",
    "{{ 1 | round(-1000000000) }}": "places",
    "{{ [1] | batch(1000000000, 0) | list }}": "parts",
    "{{ [1] | slice(1000000000) | list }}": "parts",
    "{{ [[1], [2]] | tojson(1000000000) }}": "indented",
    "{{ ([[1]] * 9000) | sum(start=[]) }}": "numbers",
    "{{ ('f' * 3000000) | int(base=16) }}": "digits",
    "{% filter center(1000000000) %}x{% endfilter %}": _TOO_LONG,
    _LARGE_SET + "{% set a %}" + "{{ x }}" * 9999 + "{% endset %}": _TOO_LONG,
    _LARGE_SET + "{% macro m() %}" + "{{ x }}" * 9999 + "{% endmacro %}{{ m() }}": _TOO_LONG,
    _DOUBLING % ("'a'", "ns.x ~ ns.x"): _TOO_LONG,
    _DOUBLING % ("'a'", "ns.x + ns.x"): _TOO_LONG,
    _DOUBLING % ("99", "ns.x * ns.x"): "number grows",
    _DOUBLING % ("['a' * 99999]", "[ns.x, ns.x]") + "{{ ns.x }}": _TOO_LONG,
    _DOUBLING % ("'a' * 99999", "dict(a=ns.x, b=ns.x)") + "{{ ns.x }}": _TOO_LONG,
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "deep",
    "{{ range(99999) | list | tojson(indent='x' * 1000000) }}": "indented",
    r"{{ ('a\r' * 1000000) | indent('y' * 1000000) }}": _TOO_LONG,
    "{% for b in [1] | batch(99999, 'x' * 1000000) %}{{ b }}{% endfor %}": _TOO_LONG,
    "{% for b in [1] | slice(slices=99999, fill_with='x' * 1000000) %}{{ b }}{% endfor %}": (
        _TOO_LONG
    ),
    "{{ ('http://a.bc ' * 90000) | urlize(target='t' * 1000000) }}": _TOO_LONG,
}
LONG = {
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "steps",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}": (
        "steps"
    ),
    "{% block b %}{% if x is not defined %}{% for i in range(9999) %}{{ self.b() }}{% endfor %}"
    "{% endif %}{% endblock %}": "deep",
    "{% for i in range(9) recursive %}{{ loop(range(99999)) }}{% endfor %}": "deep",
    "{{ range(90000) | map('center', 100000) | list }}": "steps",
    _LARGE_SET + "{% for i in range(99999) %}{% set u = x[i:] %}{% endfor %}": "steps",
}


def of_a_kind(template: str) -> str:
    stages = (Stage("draft", "x"),)
    kind = kinds.Kind("own", "hash", "item", stages, document=template)
    return kinds.render(kind, 0, {"text": "a", "params": {}}).messages[0]["content"]


def of_a_checkpoint(template: str) -> str:
    return ChatTemplate(template, {}).render([{"role": "user", "content": "a"}])


@pytest.fixture(autouse=True)
def _fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bounds, reached sooner."""
    monkeypatch.setattr(sandbox, "MAX_STEPS", 200_000)


@pytest.mark.few(3)
@pytest.mark.parametrize("render", [of_a_kind, of_a_checkpoint])
@pytest.mark.parametrize(("template", "message"), {**LARGE, **LONG}.items())
def test_a_template_without_bounds_is_refused_without_being_carried_out(
    render: Callable[[str], str], template: str, message: str
) -> None:
    peak, began = _peak_mib(), time.thread_time()
    with pytest.raises((kinds.TemplateProblem, ModelError)) as caught:
        render(template)
    assert message in str(caught.value).replace("recursion depth", "deep")
    assert time.thread_time() - began < 20  # without bounds each takes hours, or all memory
    assert _peak_mib() - peak < 300


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def test_time_is_bounded_where_every_step_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_CPU_S", 0.2)
    slow = "{% set a = 'x' * 1000000 %}{% set b = 'x' * 1000000 %}"
    slow += "{% for i in range(99999) %}{% if a == b %}{% endif %}{% endfor %}"
    began = time.thread_time()
    with pytest.raises(kinds.TemplateProblem, match=r"line 1: it takes more than 0\.2 s"):
        of_a_kind(slow)
    assert time.thread_time() - began < 20  # without bounds each takes hours, or all memory


def test_each_row_has_all_steps_to_itself() -> None:
    long_loop = "{% for i in range(99999) %}{% endfor %}ok"
    for _ in range(3):
        assert of_a_kind(long_loop).startswith("ok")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ 'a' ~ 1 ~ ['b'] }}", "a1['b']"),
        ("{{ 'a' + 'b' + 'c' + ('d' + 'e') }} {{ 1 + 2 }} {{ [1] + [2] }}", "abcde 3 [1, 2]"),
        ("{{ '%5.1f|%-3s|%%' % (1.25, 'a') }}", "  1.2|a  |%"),
        ("{{ '{:>4}|{a}'.format(1, a='y') }}", "   1|y"),
        ("{{ 'a' | center(3) }}|{{ 'a\nb' | indent(2) }}", " a |a\n  b"),
        ("{{ [{'n': 1}, {'n': 2}] | join(', ', attribute='n') }}", "1, 2"),
        ("{{ ['b', 'a'] | sort | map('upper') | join('-') }}", "A-B"),
        ("{% for i in range(3) %}{{ i }}{{ ',' if not loop.last }}{% endfor %}", "0,1,2"),
        ("{% for i in range(300) %}{{ loop.length if loop.last }}{% endfor %}", "300"),
        (
            "{% for x in [[1, [2]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
            "12",
        ),
        ("{% set a, b = 1, 2 %}{{ a }}{{ b }}{{ 'abc'[1:] }}", "12bc"),
        ("{% for a, b in {'k': 'v'}.items() %}{{ a }}={{ b }}{% else %}none{% endfor %}", "k=v"),
        ("{{ {'a': [1]} | tojson }}{{ 7 * 6 }}{{ 'ab' * 2 }}", '{"a": [1]}42abab'),
        ("{{ ' , '.join(['a', 'b']) }}{{ 'aXa'.replace('X', 'y') }}", "a , baya"),
    ],
)
@pytest.mark.parametrize("render", [of_a_kind, of_a_checkpoint])
def test_what_templates_are_written_with_works(
    render: Callable[[str], str], template: str, text: str
) -> None:
    assert render(template).removesuffix("x").strip() == text.strip()


_KIND = """\
kind: own
fields: [text]
document: "{% for i in range(99999 if text == 'bomb' else 1) %}{% for j in range(9) %}{% endfor %}\\
  {% endfor %}{{ text }}"
stages: [{name: draft, instruction: Go on.}]
"""


def test_a_row_that_goes_beyond_fails_and_its_neighbours_do_not(
    fake_project: Any, tmp_path: Path
) -> None:
    project = fake_project(tmp_path)
    (tmp_path / "own.yaml").write_text(_KIND)
    project.rows("rows.parquet", id=["a", "b", "c"], text=["fine", "bomb", "good"])
    project.jobs("name: j, kind: ./own.yaml, input: rows.parquet, sampling: {max_tokens: 4}")
    assert project.run().exit_code == 1
    [(item, code, message)] = project.query("select item_id, code, message from failures")
    assert (item, code) == ("b", "template_error")
    assert message.endswith("it takes more than 200,000 steps")
    assert project.query("select count(*) from artifacts") == [(2,)]


@pytest.mark.parametrize("render", [of_a_kind, of_a_checkpoint])
def test_what_is_bounded_still_works(render: Callable[[str], str]) -> None:
    def made(template: str) -> str:
        return render(template).removesuffix("\n\nx")  # the instruction of a kind

    batches = (
        "{% for b in [1, 2, 3] | batch(linecount=2, fill_with='-') %}{{ b | join }};{% endfor %}"
    )
    assert made(batches) == "12;3-;"
    assert made("{% for s in [1, 2, 3] | slice(slices=3) %}{{ s | join }};{% endfor %}") == "1;2;3;"
    assert made("{{ 'a\nb' | indent(2) }}") == "a\n  b"
    link = made("{{ 'http://a.bc' | urlize(nofollow=True, target='x') }}")
    assert "nofollow" in link
    assert 'target="x"' in link
