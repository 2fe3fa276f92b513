"""Kind files and their templates: refused by line, or rows that fail; Python stays out of reach.

Nothing here renders for long: limits on time and size have tests of their own.
"""

import re
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bounds import check_sentences, examples, within
from fuzz_night import fresh_folder, run_to_end
from hypothesis import given
from hypothesis import strategies as st
from mutations import emit, mutated_bytes, mutated_trees, tree_of

from thothy_batch.errors import ManifestError, ThothyError
from thothy_batch.kinds import (
    InvalidValueError,
    Kind,
    TemplateProblem,
    load_kind,
    render,
    resolve_params,
    resolve_sampling,
)
from thothy_batch.kinds.kind_file import KindFile, ParamFile, SamplingDefaults
from thothy_batch.kinds.templates import render_template

SECONDS = 20.0
_TWO = {
    "kind": "tagline",
    **{"version": 2, "description": "A tagline.", "entry": "item", "fields": ["text", "name"]},
    "optional_fields": ["brand"],
    "params": {
        "tone": {"type": "str", "default": "dry"},
        "max_words": {"type": "int", "default": 9, "min": 1, "max": 20},
        "share": {"type": "float", "default": 0.5, "min": 0, "max": 1},
    },
    "sampling": {"temperature": 0.5, "max_tokens": 30, "stop": ["x"]},
    "system": "You write taglines.",
    "document": "'{{ name }}: {{ text }}'",
    "stages": [
        {"name": "draft", "instruction": "'A {{ params.tone }} line{% if brand %}!{% endif %}'"},
        {"name": "polish", "instruction": "'Shorten: {{ previous }}'"},
    ],
    "output": {"format": "text"},
    "checks": {"empty": "fail", "cut_off": "flag"},
}
_GROUP = {
    **{"kind": "digest", "entry": "group", "fields": ["text"]},
    "params": {"group_by": {"type": "str", "default": "null"}},
    "document": "'{% for item in items %}{{ item.text }}{% endfor %}'",
    "stages": [{"name": "draft", "instruction": "Do it."}],
    "output": {"format": "sections", "sections": ["A", "B"]},
    "checks": {"sections": "flag"},
}
_LINES = {
    **{"kind": "lines", "entry": "target_lang", "fields": ["text"], "samples": "variants"},
    "params": {
        "variants": {"type": "int", "default": 2, "min": 1},
        "target_langs": {"type": "list"},
    },
    "sampling": {"temperature": 0.8},
    "stages": [{"name": "draft", "instruction": "'{{ text }} in {{ target_lang }}'"}],
    "output": {"format": "lines"},
    "checks": {"count": "flag", "one_line": "flag"},
}
_RAW = {"kind": "own", "raw": "true", "stages": [{"name": "draft"}]}
TREES = tuple(tree_of(base) for base in (_TWO, _GROUP, _LINES, _RAW))
KEYS = tuple(
    name for section in (KindFile, ParamFile, SamplingDefaults) for name in section.model_fields
)
_EXPRESSIONS = (
    *(
        "text",
        "nowhere",
        "text.nowhere",
        "text['x']",
        "text[99]",
        "text()",
        "params.tone",
        "params",
    ),
    *("''.__class__.__mro__", "text.__class__", "text['__class__']", "text|attr('__class__')"),
    *("text|attr('__cla' ~ 'ss__')", "[text]|map(attribute='__class__')|list", "self", "self.x()"),
    *("self._TemplateReference__context", "cycler.__init__.__globals__", "joiner.__init__"),
    *("range.__globals__", "dict.__subclasses__()", "namespace.__init__.__globals__['os']"),
    *("'{0.__class__}'.format(text)", "'{x.__class__.__mro__}'.format_map({'x': text})"),
    *("'{0.__init__.__globals__}'.format(cycler)", "('%s' % text)", "text.format.__self__"),
    *("text.upper", "text.upper.__call__()", "range", "cycler", "namespace()", "dict", "loop"),
    *(
        "params.update({'a': 1})",
        "params.pop('tone')",
        "params.__setitem__('a', 1)",
        "params.keys()",
    ),
    *("text|nofilter", "text is notest", "text|int / 0", "1 // 0", "1 % 0", "text|int('x', 99)"),
    *(
        "text + 1",
        "text * text",
        "-text",
        "text < 1",
        "text|sort(1)",
        "text|join(1)",
        "text|tojson",
    ),
    *("'\\ud800'", "'\\x00'", "'\\N{BULLET}'", "'\\UFFFFFFFF'", "9" * 5000, "1e999", "1e400|int"),
    *("10 ** 3", "'a' * 5000000", "range(10 ** 9)", "range(200000)", "1 if", "(", "text|", "a.b.c"),
    *("none", "true", "[]", "{}", "{'a': 1}.items()", "caller()", "super()", "varargs", "_", "__"),
    *("'%c' % -1", "'%d' % text", "text.encode()", "text|batch(0)", "text|slice(0)|list"),
    *("text|dictsort", "text|groupby('x')", "text|xmlattr", "text|indent(-1)", "text|round(99)"),
    *("text|map('attr', '__class__')|list", "text|selectattr('__class__')|list", "text|sum"),
    *("(" * 200 + "1" + ")" * 200, "[" * 90 + "]" * 90, "text" + ".x" * 50, "not " * 600 + "1"),
)
_STATEMENTS = (
    *("{%% if %s %%}a{%% endif %%}", "{%% for x in %s %%}{{ x }}{%% endfor %%}", "{{ %s }}"),
    *("{%% set params = %s %%}{{ params }}", "{%% set x.y = %s %%}", "{%% include %s %%}"),
    *("{%% import %s as x %%}", "{%% from %s import x %%}", "{%% extends %s %%}", "{# %s #}"),
    *("{%% macro m(x) %%}{{ m(%s) }}{%% endmacro %%}{{ m(1) }}", "{%% block b %%}{{ %s }}"),
    *(
        "{%% block b %%}{{ %s }}{%% endblock %%}{{ self.b() }}",
        "{%% filter upper %%}%s{%% endfilter %%}",
    ),
    *(
        "{%% for x in %s recursive %%}{{ loop(%s) }}{%% endfor %%}",
        "{%% do %s %%}",
        "{%% raw %%}%s",
    ),
    *("{%% call text(%s) %%}{%% endcall %%}", "{%% with x = %s %%}{{ x }}{%% endwith %%}", "{{ %s"),
    *("{%% autoescape %s %%}{%% endautoescape %%}", "{%% break %%}%s", "{{ %s | string ~ %s }}"),
    *(
        "{%% trans %%}%s",
        "{{ [%s, %s] }}",
        "{%%- %s -%%}",
        "{{ {%s: %s} }}",
        "{{ %s if %s else %s }}",
    ),
)
# Types and modules that no template is given (dict, range and the like it is).
_ESCAPES = re.compile(r"<class '(str|object|type|function)'>|<module |<code |<slot |/jinja2/")
_NOT_COMPILED = (jinja2.TemplateSyntaxError, SyntaxError, ValueError)  # the review refuses them
_ADDRESS = re.compile(r" at 0x[0-9a-f]+>")


def templates() -> st.SearchStrategy[str]:
    """Hostile and broken expressions within statements of every sort."""
    part = st.builds(
        lambda statement, expression: statement.replace("%%", "%").replace("%s", expression),
        st.sampled_from(_STATEMENTS),
        st.sampled_from(_EXPRESSIONS),
    )
    return st.lists(part, min_size=1, max_size=3).map(" ".join)


def loaded(path: Path) -> Kind | None:
    """The kind, or None where it was refused in sentences."""
    with within(SECONDS):
        try:
            return load_kind(path.name, path.parent)
        except ManifestError as error:
            check_sentences(error)
            paths = {problem.path for problem in error.problems}
    assert paths == {str(path)}
    return None


def try_stages(kind: Kind) -> None:
    """Params, sampling and every stage: values and texts, or the errors of a row."""
    with within(SECONDS):
        try:
            params = resolve_params(kind, {})
            resolve_sampling(kind, {})
        except InvalidValueError as error:
            str(error).encode()
            return
        values: dict[str, Any] = dict.fromkeys((*kind.fields, *kind.optional_fields), "some text")
        values |= {"params": params, "items": [values], "target_lang": "de", "previous": "draft"}
        for stage in range(0 if kind.raw else len(kind.stages)):
            try:
                prompt = render(kind, stage, values)
            except TemplateProblem as problem:
                str(problem).encode()
                continue
            assert all(isinstance(m["content"], str) for m in prompt.messages)
            for message in prompt.messages:
                message["content"].encode()


@pytest.mark.rest
@given(text=mutated_trees(TREES, KEYS))
@examples(150)
def test_changed_kinds_load_or_are_refused_by_line(text: str) -> None:
    _check_file(text.encode("utf-8", "surrogatepass"))


@given(data=mutated_bytes(tuple(emit(tree).encode() for tree in TREES)))
@examples(150)
def test_changed_bytes_load_or_are_refused_by_line(data: bytes) -> None:
    _check_file(data)


def _check_file(data: bytes) -> None:
    with fresh_folder() as folder:
        (folder / "own.yaml").write_bytes(data)
        kind = loaded(folder / "own.yaml")
    if kind is not None:
        try_stages(kind)


@given(template=templates())
@examples(150)
def test_hostile_templates_are_refused_or_fail_their_row(template: str) -> None:
    lines = "\n".join("  " + line for line in template.splitlines())
    head = "kind: own\nfields: [text]\nparams: {tone: {type: str, default: dry}}\n"
    stage = "stages: [{name: draft, instruction: Do it.}]\n"
    _check_file(f"{head}{stage}document: |\n{lines}\n".encode())


@pytest.mark.rest
@given(template=templates())
@examples(150)
def test_no_template_reaches_python(template: str) -> None:
    """Past the review, which refuses most of these before anything is rendered."""
    values = {"text": "some text", "params": {"tone": "dry"}}
    with within(SECONDS):
        try:
            text = render_template(template, values, what="document")
        except TemplateProblem as problem:
            text = str(problem)
        except _NOT_COMPILED:
            return
    assert not _ESCAPES.search(text)
    assert values == {"text": "some text", "params": {"tone": "dry"}}


@pytest.mark.rest
@given(template=templates())
@examples(5)
def test_rows_of_a_hostile_kind_fail_by_themselves(template: str) -> None:
    kind = {
        "kind": "own",
        "fields": ["text"],
        "stages": [{"name": "draft", "instruction": "Do it."}],
    }
    tree = tree_of({**kind, "document": "'" + template.replace("'", "''") + "'"})
    with fresh_folder() as folder:
        rows = {"id": ["a", "b"], "text": ["7", "some text"]}
        pq.write_table(pa.table(rows), folder / "rows.parquet")
        (folder / "own.yaml").write_text(emit(tree))
        job = "{name: j, kind: own.yaml, input: rows.parquet, sampling: {max_tokens: 4}}"
        (folder / "night.yaml").write_text(f"jobs: [{job}]\n")
        found = run_to_end(folder / "night.yaml")
    if isinstance(found, ThothyError):
        assert isinstance(found, ManifestError)
        assert all("own.yaml" in problem.path for problem in found.problems)


@pytest.mark.parametrize("expression", _EXPRESSIONS)
def test_no_expression_shows_an_address(expression: str) -> None:
    """It would make every night's prompt another one."""
    source = "{{ " + expression + " }}"
    try:
        text = render_template(source, {"text": "a", "params": {"tone": "dry"}}, what="document")
    except (TemplateProblem, *_NOT_COMPILED):
        return
    assert not _ADDRESS.search(text)
