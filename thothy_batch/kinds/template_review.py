"""Validates a template before any row is rendered: its syntax and the names it uses."""

from collections.abc import Iterator
from dataclasses import dataclass

from thothy_batch.kinds.templates import (
    FILTER_NAMES,
    GLOBAL_NAMES,
    TEST_NAMES,
    compile_template,
    parse_template,
)
from thothy_batch.templating import jinja, meta, nodes
from thothy_batch.yaml_source import did_you_mean

# (line within the template, message, hint)
Finding = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class Scope:
    """The names that a template of this kind file may use."""

    entry: str
    fields: frozenset[str]
    params: frozenset[str]
    has_previous: bool

    def names(self) -> set[str]:
        """Return the top-level variables."""
        names = {"items"} if self.entry == "group" else set(self.fields)
        names |= {"target_lang"} if self.entry == "target_lang" else set()
        return names | {"params"} | ({"previous"} if self.has_previous else set())


def review_template(source: str, scope: Scope) -> list[Finding]:
    """Return every problem of a template, by line."""
    try:
        tree = parse_template(source)
        findings = [*_unknown_filters(tree), *_other_files(tree)]
        findings += findings or _compile_problems(source)
        findings += _unknown_members(tree, "params", scope.params, "param")
        if scope.entry == "group":
            for name in _loop_names(tree):
                findings += _unknown_members(tree, name, scope.fields, "field")
        findings += _unknown_variables(tree, scope)
    except jinja.TemplateSyntaxError as error:
        return [(error.lineno, f"{error.message}", "")]
    except RecursionError:
        return [(1, "nested too deeply", "")]
    except ValueError as error:  # a number with thousands of digits
        return [(1, f"cannot be read: {error}", "")]
    return sorted(set(findings))


def _unknown_variables(tree: nodes.Template, scope: Scope) -> Iterator[Finding]:
    try:
        used = meta.find_undeclared_variables(tree)
    except jinja.TemplateAssertionError:
        return  # already reported: the template does not compile either
    unknown = used - scope.names() - GLOBAL_NAMES
    for node in tree.find_all(nodes.Name):
        if node.ctx != "load" or node.name not in unknown:
            continue
        hint = did_you_mean(node.name, scope.names())
        message = f"{node.name!r} is no declared field"
        if node.name == "previous":
            message, hint = "'previous' is known from the second stage's instruction on", ""
        elif node.name == "target_lang":
            message, hint = "'target_lang' belongs to entry: target_lang", ""
        elif node.name == "items":
            message, hint = "'items' belongs to entry: group", ""
        elif scope.entry == "group" and node.name in scope.fields:
            message = f"{node.name!r} is a field of each of the items"
            hint = "write {% for item in items %}{{ item." + node.name + " }}{% endfor %}"
        yield node.lineno, message, hint


def _unknown_members(
    tree: nodes.Template, owner: str, known: frozenset[str], what: str
) -> Iterator[Finding]:
    """Find `owner.name` and `owner["name"]` with an unknown name."""
    members: list[nodes.Getattr | nodes.Getitem] = [
        *tree.find_all(nodes.Getattr),
        *tree.find_all(nodes.Getitem),
    ]
    for node in members:
        if not isinstance(node.node, nodes.Name) or node.node.name != owner:
            continue
        name = node.attr if isinstance(node, nodes.Getattr) else _constant(node.arg)
        if isinstance(name, str) and name not in known and not hasattr(dict, name):
            yield node.lineno, f"{name!r} is no declared {what}", did_you_mean(name, known)


def _constant(node: nodes.Node) -> object:
    return node.value if isinstance(node, nodes.Const) else None


def _loop_names(tree: nodes.Template) -> set[str]:
    """Return the loop variables of items: `{% for NAME in items %}`."""
    return {
        loop.target.name
        for loop in tree.find_all(nodes.For)
        if isinstance(loop.target, nodes.Name)
        and isinstance(loop.iter, nodes.Name)
        and loop.iter.name == "items"
    }


def _unknown_filters(tree: nodes.Template) -> Iterator[Finding]:
    for node in tree.find_all(nodes.Filter):
        if node.name not in FILTER_NAMES:
            yield node.lineno, f"no filter {node.name!r}", did_you_mean(node.name, FILTER_NAMES)
    for test in tree.find_all(nodes.Test):
        if test.name not in TEST_NAMES:
            yield test.lineno, f"no test {test.name!r}", did_you_mean(test.name, TEST_NAMES)


def _other_files(tree: nodes.Template) -> Iterator[Finding]:
    kinds = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
    for node in tree.find_all(kinds):
        yield node.lineno, "a template cannot read other files (include, import, extends)", ""


def _compile_problems(source: str) -> list[Finding]:
    try:
        compile_template(source)
    except jinja.TemplateSyntaxError as error:
        return [(error.lineno, f"{error.message}", "")]
    except (SyntaxError, ValueError) as error:
        return [(1, f"cannot be compiled: {error}", "")]
    return []
