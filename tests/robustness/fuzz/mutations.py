"""Valid YAML made wrong: trees with a few places changed, and bytes changed anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

# A tree is a list of (key, tree) pairs, a tuple of trees, or a text that stands in the file as it
# is: so it can hold a key twice and what no Python value stands for.
Tree = Any

_TOKENS = (
    *(b"\t", b"\0", b"\r", b"\r\n", b"\n", b"\xef\xbb\xbf", b"\xff", b"\xc3", b"\xed\xa0\x80"),
    *(b"\xc2\x85", b"\xe2\x80\xa8", b"\xf0\x9f\x90\x8d", b"\x1b[31m", b"\x7f", b"\x0c"),
    *(b": ", b"- ", b"? ", b"[", b"]", b"{", b"}", b", ", b"#", b" #", b"'", b'"', b"|", b">"),
    *(b"&a ", b"*a", b"<<: *a", b"!", b"!!", b"!!int ", b"!x!y ", b"%YAML 1.1\n", b"%TAG ! x\n"),
    *(b"\n---\n", b"\n...\n", b"\\", b"`", b"@", b"{{", b"{%", b"=", b"~", b"\xc2\xa0"),
)

VALUES = (
    *("null", "~", "''", '"\\0"', '"\\ud800"', '"\\UFFFFFFFF"', '"\\e[31mred"', "true", "no"),
    *("0", "-1", "1", "1.5", "-0.0", "1e999", ".nan", ".inf", "-.inf", "0x1F", "0o17", "1_000"),
    *("9" * 19, "9" * 350, "9" * 5000, "1" + "0" * 300, "1e-400", "12:30:45", "2026-01-01"),
    *("[]", "{}", "[[]]", "{a: 1}", "[a, 1, null]", "{1: 2, [x]: y}", "[&a [*a]]", "*nowhere"),
    *("&a {x: *a}", "{<<: {a: 1}, b: 2}", "!!int abc", "!!python/object:os.system x", "!x 1"),
    *("!!set {a, b}", "!!binary aGk=", "!!str 5", "? x", "&b 1", "{a: 1, a: 2}", '"a\\nb"'),
    *(
        "text",
        "06:00",
        "25:61",
        "90s",
        "9" * 300 + "h",
        "'5h '",
        "8GiB",
        "0.9",
        "'" + "9" * 400 + "h'",
    ),
    *("'" + "9" * 400 + "GiB'", "~nobody-here/x", "'~'", "a/b/c.yaml", "'" + "x" * 300 + "'"),
    *("'" + "y" * 5000 + "'", "'" + "n/" * 3000 + "'", "'rows[0-9.parquet'", "'*.parquet'"),
    *("rows.parquet", "[rows.parquet, '*.parquet']", "auto", "fail", "cuda", "'\u202e\u0378'"),
    *("'\U0010ffff'", '"' + "\\n" * 50 + '"', "[" * 60 + "]" * 60, "[" * 400 + "]" * 400),
)


def laughs(levels: int, width: int = 9) -> str:
    """A billion laughs, or as many as are asked for."""
    lines = ["l0: &l0 [ha]"]
    for level in range(1, levels):
        lines.append(f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * width)}]")
    return "\n".join(lines) + "\n"


def emit(tree: Tree) -> str:
    """The tree as YAML, one key or entry a line."""
    if isinstance(tree, list):
        return "{\n" + ",\n".join(f"{key}: {emit(value)}" for key, value in tree) + "\n}"
    if isinstance(tree, tuple):
        return "[\n" + ",\n".join(emit(value) for value in tree) + "\n]"
    return str(tree)


def tree_of(value: object) -> Tree:
    """A plain value as a tree."""
    if isinstance(value, dict):
        return [(key, tree_of(part)) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return tuple(tree_of(part) for part in value)
    return str(value)


@dataclass(frozen=True)
class _Change:
    where: int
    how: str
    value: str


def mutated_trees(
    bases: tuple[Tree, ...], keys: tuple[str, ...], values: tuple[str, ...] = VALUES
) -> st.SearchStrategy[str]:
    """YAML texts of one of the trees with some of its places changed."""
    how = st.sampled_from(["value", "value", "value", "delete", "twice", "rename", "add", "wrap"])
    texts = st.sampled_from((*values, *keys))
    changes = st.builds(_Change, st.integers(0, 10**6), how, texts)
    many = st.lists(changes, max_size=4)
    return st.builds(lambda base, made: emit(_changed(base, made)), st.sampled_from(bases), many)


def every_change(trees: tuple[Tree, ...], values: tuple[str, ...] = VALUES) -> Iterator[str]:
    """YAML texts of the trees with each of the values at each of their places."""
    for tree in trees:
        for path in _paths(tree):
            for value in values:
                yield emit(_at(tree, path, _Change(0, "value", value)))


def _changed(tree: Tree, changes: list[_Change]) -> Tree:
    for change in changes:
        paths = list(_paths(tree))
        if paths:
            tree = _at(tree, paths[change.where % len(paths)], change)
    return tree


def _paths(tree: Tree) -> Iterator[tuple[int, ...]]:
    """Paths of all values, as indexes from the outside in."""
    for i, part in enumerate(tree if isinstance(tree, list | tuple) else ()):
        yield (i,)
        value = part[1] if isinstance(tree, list) else part
        yield from ((i, *inner) for inner in _paths(value))


def _at(tree: Tree, path: tuple[int, ...], change: _Change) -> Tree:
    """The tree with the change at that path."""
    pairs = list(tree) if isinstance(tree, list) else [("", value) for value in tree]
    i, *inner = path
    key, value = pairs[i]
    changed = [(key, _at(value, tuple(inner), change))] if inner else _applied(key, value, change)
    pairs[i : i + 1] = changed
    return pairs if isinstance(tree, list) else tuple(value for _, value in pairs)


def _applied(key: str, value: Tree, change: _Change) -> list[tuple[str, Tree]]:
    return {
        "value": [(key, change.value)],
        "delete": [],
        "twice": [(key, value), (key, value)],
        "rename": [(change.value, value)],
        "add": [(key, value), (change.value, "1")],
        "wrap": [(key, (value,))],
    }[change.how]


def mutated_bytes(bases: tuple[bytes, ...], num: int = 6) -> st.SearchStrategy[bytes]:
    """One of the files with bytes flipped, put in, taken out, said twice or cut off."""
    how = st.sampled_from(["flip", "insert", "insert", "delete", "twice", "cut"])
    place = st.floats(0, 1, exclude_max=True)
    text = st.one_of(st.sampled_from(_TOKENS), st.binary(min_size=1, max_size=4))
    change = st.tuples(how, place, st.integers(1, 40), text)
    return st.builds(_rewritten, st.sampled_from(bases), st.lists(change, min_size=1, max_size=num))


def _rewritten(data: bytes, changes: list[tuple[str, float, int, bytes]]) -> bytes:
    for how, place, size, text in changes:
        at = int(place * len(data))
        head, part, tail = data[:at], data[at : at + size], data[at + size :]
        if how == "flip":
            data = head + bytes(byte ^ (1 << size % 8) for byte in part[:1]) + part[1:] + tail
        elif how == "cut":
            data = head if size == 1 else data
        else:
            data = {
                "insert": head + text + part + tail,
                "delete": head + tail,
                "twice": head + part + part + tail,
            }[how]
    return data
