"""Generates parts of README.md (models, --help, manifest keys, the store's tables), the tables of
docs/input-types.md, and docs/schema.

python tests/docs.py           # exit 1 when one of them is out of date
python tests/docs.py --write   # rewrite them (make docs)
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb

from thothy_batch.manifest.settings import json_schema
from thothy_batch.model.config.families import FAMILIES, WRAPPERS
from thothy_batch.store.database.schema import ensure_file
from thothy_batch.store.files import journal_folder

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
INPUT_TYPES = ROOT / "docs" / "input-types.md"
COMMANDS = ("run", "plan", "status", "report", "export", "doctor", "bench", "init")
VIEWS = ("latest_artifacts", "latest_failures", "job_throughput", "nights")


def help_text() -> str:
    parts = [
        "## Commands\n",
        "Documents printed by `--json` have a JSON Schema each, in `docs/schema`.\n",
    ]
    for name in COMMANDS:
        parts.append(f"```text\n$ thothy-batch {name} --help\n{plain_help(name)}\n```\n")
    return "\n".join(parts)


def plain_help(command: str) -> str:
    """--help as a log sees it: no colours, a fixed width."""
    env = {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "100", "LANG": "C.UTF-8", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "thothy_batch", command, "--help"],
        capture_output=True, text=True, env=env, check=True,
    )  # fmt: skip
    text = done.stdout.replace("python -m thothy_batch", "thothy-batch")
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def manifest_reference() -> str:
    schema = json_schema()
    lines = ["## The manifest's keys\n", "| key | default | meaning |", "|---|---|---|"]
    lines += rows_of(schema, schema, "")
    return "\n".join(lines) + "\n"


def rows_of(schema: dict, node: dict, prefix: str) -> list[str]:
    lines = []
    for name, field in node.get("properties", {}).items():
        inner = follow(schema, field)
        value = field.get("default")
        default = f"`{json.dumps(value)}`" if value is not None else ""
        about = (field.get("description") or inner.get("description", "")).replace("|", "\\|")
        lines.append(
            f"| `{prefix}{name}` | {default if 'properties' not in inner else ''} | {about} |"
        )
        lines += rows_of(schema, inner, f"{prefix}{name}.")
    return lines


def follow(schema: dict, field: dict) -> dict:
    """The object that a field refers to, through $ref, lists and alternatives."""
    if "$ref" in field:
        return dict(schema["$defs"][field["$ref"].rsplit("/", 1)[1]])
    for option in [field.get("items", {}), *field.get("anyOf", []), *field.get("oneOf", [])]:
        if option and "properties" in (found := follow(schema, option)):
            return found
    return field


def tables() -> str:
    lines = ["## The store's tables\n", "| table or view | columns |", "|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.duckdb"
        journal_folder(path).mkdir()
        ensure_file(path)
        with duckdb.connect(str(path), read_only=True) as db:
            found = db.execute(
                """select table_name, list(column_name || ' ' || data_type order by column_index)
                   from duckdb_columns() where not internal group by table_name order by 1"""
            ).fetchall()
    for name, columns in found:
        if not name.startswith("_"):
            listed = ", ".join(f"`{c}`" for c in columns)
            lines.append(f"| {name}{' (view)' if name in VIEWS else ''} | {listed} |")
    return "\n".join(lines) + "\n"


def models() -> str:
    lines = ["| models | `architectures` in config.json |", "|---|---|"]
    lines += [f"| {family.label} | `{name}` |" for name, family in FAMILIES.items()]
    lines += [f"| {each.label}, texts alone | `{name}` |" for name, each in WRAPPERS.items()]
    return "\n".join(lines) + "\n"


def rendered(path: Path, parts: dict[str, str]) -> str:
    """The text of a document, its generated parts anew."""
    text = path.read_text(encoding="utf-8")
    for name, body in parts.items():
        pattern = rf"(<!-- generated:{name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda m, b=body: f"{m[1]}{b}{m[2]}", text, count=1, flags=re.DOTALL)
    return text


def main() -> int:
    sys.path.append(str(ROOT / "tests" / "oracles"))
    import document_schemas
    import input_types

    parts = {
        "models": models(),
        "help": help_text(),
        "manifest": manifest_reference(),
        "tables": tables(),
    }
    with tempfile.TemporaryDirectory() as folder:
        types = rendered(INPUT_TYPES, input_types.tables(Path(folder)))
    files = {README: rendered(README, parts), INPUT_TYPES: types, **document_schemas.files()}
    old = [
        path
        for path, text in files.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if "--write" in sys.argv:
        for path in old:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
        return 0
    for path in old:
        print(f"{path} is out of date: run `make docs`", file=sys.stderr)
    return int(bool(old))


if __name__ == "__main__":
    raise SystemExit(main())
