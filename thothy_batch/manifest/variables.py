"""Finds the values of a manifest's variables: `--var`, then the day, then the environment."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from thothy_batch.errors import ManifestError, Problem, hide_secret, without_secrets
from thothy_batch.yaml_source import is_variable_name, value_fault

_DAY = "date"
_OF_SECRETS = re.compile(
    r"(PASSWORD|PASSWD|PASSPHRASE|_PWD|(^|_)(PASS|SECRET|TOKEN|CREDENTIALS?|"
    r"(API|ACCESS|ACCOUNT|PRIVATE|SECRET)_?KEY(_ID)?))(_|$)",
    re.IGNORECASE,
)
_HIDDEN = "***"
_FORM = "write --var NAME=VALUE, and --var NAME= for an empty value"
_SCHEMA_NAME = "Variable"
_SCHEMA = {
    "description": "A variable in place of the value: ${NAME} or ${NAME:-default}.",
    "type": "string",
    "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^{}]*)?\}",
}


class ManifestVariables:
    """The variables of one command, and which of them its manifest used.

    `given`: those of `--var`. `day`: the day on which the run began.
    """

    def __init__(
        self, given: Mapping[str, str], day: date, environment: Mapping[str, str] | None = None
    ) -> None:
        self._given = given
        self._environment = os.environ if environment is None else environment
        self._day = day.isoformat()
        self._hints: dict[str, str] = {}
        self._used: set[str] = set()

    def get(self, name: str) -> str | None:
        """Return the value of a variable; that of a secret is kept out of messages from now on."""
        self._used.add(name)
        if name in self._given:
            value: str | None = self._given[name]
        else:
            value = self._day if name == _DAY else self._environment.get(name)
        if value is not None and _OF_SECRETS.search(name):
            hide_secret(value)
        return value

    def hint(self, name: str) -> str:
        """Return what to do about an unknown name."""
        if name not in self._hints:
            known = [*self._given, _DAY, *self._environment]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            near += [each for each in known if each.lower() == name.lower()]
            ways = "give it by --var or in the environment, or write a default behind the name: :-"
            self._hints[name] = f"did you mean {near[0]!r}? Else {ways}" if near else ways
        return self._hints[name]

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each variable of `--var` that the manifest does not use."""
        unused = [name for name in self._given if name not in self._used]
        return tuple(f"--var {name}: the manifest does not use ${{{name}}}" for name in unused)


def parse_variables(texts: Iterable[str]) -> dict[str, str]:
    """Parse the texts of `--var NAME=VALUE`. Raises ManifestError (bad usage)."""
    found: dict[str, str] = {}
    problems = []
    for text in texts:
        name, sign, value = text.partition("=")
        why = value_fault(value)
        if not is_variable_name(name):
            message = f"--var {name!r}: a name is expected before the ="
            hint = f"a name has ASCII letters, digits and _, no digit first; {_FORM}"
            problems.append(Problem(message, hint=hint))
        elif not sign:
            problems.append(Problem(f"--var {name}: the value is missing", hint=_FORM))
        elif name in found:
            problems.append(Problem(f"--var {name}: is given twice", hint="a name has one value"))
        elif why:
            problems.append(Problem(f"--var {name}: {why}"))
        found.setdefault(name, value)
    if problems:
        raise ManifestError(problems)
    return found


def without_secret_values(value: Any) -> Any:
    """Return JSON values in which secret variables are shown as `***`."""
    if isinstance(value, dict):
        return {key: without_secret_values(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_secret_values(each) for each in value]
    if isinstance(value, bool) or value is None:
        return value
    shown = without_secrets(str(value))  # a secret of digits may have become a number
    return shown if isinstance(value, str) or shown == _HIDDEN else value


def add_variables(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON Schema in which a variable may stand for each number, switch and word."""
    found = _with_variables(schema)
    return {**found, "$defs": {**found.get("$defs", {}), _SCHEMA_NAME: _SCHEMA}}


def _with_variables(node: dict[str, Any]) -> dict[str, Any]:
    node = dict(node)
    for key in ("properties", "$defs"):
        if key in node:
            node[key] = {name: _with_variables(each) for name, each in node[key].items()}
    if isinstance(node.get("items"), dict):
        node["items"] = _with_variables(node["items"])
    reference = {"$ref": f"#/$defs/{_SCHEMA_NAME}"}
    for key in ("anyOf", "oneOf"):
        if key in node:
            is_bounded = any(_is_bounded(each) for each in node[key])
            options = [each if _is_bounded(each) else _with_variables(each) for each in node[key]]
            node[key] = options + ([reference] if is_bounded else [])
    if _is_bounded(node):
        about: dict[str, Any] = {
            key: node.pop(key) for key in ("title", "description", "default") if key in node
        }
        return {"anyOf": [node, reference], **about}
    return node


def _is_bounded(node: dict[str, Any]) -> bool:
    """True for a value that not every text fits."""
    if "enum" in node or "const" in node:
        return True
    is_number = node.get("type") in ("integer", "number", "boolean")
    return is_number or (node.get("type") == "string" and "pattern" in node)
