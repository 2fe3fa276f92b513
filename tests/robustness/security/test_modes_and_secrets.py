"""Files that a run leaves: no more rights than the umask, and no passwords."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from thothy_batch.errors import ManifestError, ThothyError, without_passwords
from thothy_batch.manifest.settings import load_manifest

_SECRETS = {
    "HF_TOKEN": "hf_secret123456",
    "AWS_SECRET_ACCESS_KEY": "secret123456",
    "SHOP_PASSWORD": "oaklamp98765",
}
_MANIFEST = """\
model: {id: "builtin:fake"}
jobs:
  - name: j
    kind: raw
    input:
      sql: >-
        select id, prompt from 'rows.csv'
        where prompt <> 'postgres://me:secret123456@host/db' and prompt <> 'password=secret123456'
        and prompt <> '${SHOP_PASSWORD}'
    sampling: {max_tokens: 4}
"""
_SQL_LINE = (
    "select 1 as id, 'x' as prompt "
    "from postgres_scan('password=secret123456', '${SHOP_PASSWORD}', 'b')"
)


def commands(folder: Path, mask: int) -> str:
    """init, run, report, export and a run that is refused; all that they print."""
    (folder / "rows.csv").write_text("id,prompt\n1,a\n2,b\n")
    (folder / "m.yaml").write_text(_MANIFEST)
    bad = _MANIFEST.split("      sql:")[0] + f'      sql: "{_SQL_LINE}"\n'
    (folder / "bad.yaml").write_text(bad)
    for path in folder.iterdir():
        path.chmod(0o600)
    lines = [
        "init new",
        "run m.yaml",
        "plan m.yaml --json",
        "status --json",
        "report --html r.html",
        "report --json",
        *(f"export artifacts.duckdb -o o.{ending}" for ending in ("csv", "jsonl", "parquet")),
        "run bad.yaml --json",
        "run m.yaml --model https://me:secret123456@host/x/y",
        "run m.yaml --device cuda --force",
    ]
    script = f"import sys, os; os.umask({mask}); from thothy_batch.cli.main import main\n"
    script += "for line in sys.argv[1:]:\n try:\n  main(line.split())\n except SystemExit: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", script, *lines],
        cwd=folder,
        env={**os.environ, **_SECRETS, "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


@pytest.mark.rest
@pytest.mark.parametrize("mask", [0o077, 0o027, 0o022])
def test_no_file_has_more_rights_than_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    commands(tmp_path, mask)
    found = {p: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")}
    names = {path.name for path in found}
    assert {"artifacts.duckdb", "engine.log", "status.json", "lock", "r.html", "o.csv"} <= names
    assert {"o.parquet", "o.jsonl", "manifest.yaml", "products.parquet"} <= names
    assert not {str(path): oct(mode) for path, mode in found.items() if mode & mask}


@pytest.mark.rest
def test_no_secret_is_stored_or_shown(tmp_path: Path) -> None:
    printed = commands(tmp_path, 0o022)
    assert "SQL: " in printed  # the refusal of bad.yaml
    assert not any(secret in printed for secret in ("secret123456", "oaklamp98765"))
    own = {"m.yaml", "bad.yaml"}
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name not in own:
            held = path.read_bytes()
            assert not any(each in held for each in (b"secret123456", b"oaklamp98765")), path
    with duckdb.connect(str(tmp_path / "artifacts.duckdb"), read_only=True) as store:
        text = str(store.execute("select * from runs").fetchall())
    assert "oaklamp98765" not in text
    assert "secret123456" not in text  # compressed pages would hide it from the look above
    assert "postgres://me:***@host/db" in text
    assert "where prompt" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgres://me:pw@host/db", "postgres://me:***@host/db"),
        ("s3://key:se/cret@bucket", "s3://key:se/cret@bucket"),
        ("https://me:p%40w@host/x", "https://me:***@host/x"),
        ("host=h password=pw user=me", "host=h password='***' user=me"),
        ("password = 'it''s' and x", "password = '***' and x"),
        ("SECRET 'pw', KEY_ID 'a'", "SECRET '***', KEY_ID 'a'"),
        ('{"api_key": "pw"}', "{\"api_key\": '***'}"),
        ("https://h/x?sig=pw&a=1", "https://h/x?sig='***'&a=1"),
        ("hf_abcdefghijkl", "hf_***"),
        ("select token from 'x.parquet'", "select token from 'x.parquet'"),
        ("select secret, password from t where token = other", None),
        ("'https://host:80/a@b'", None),
        ("max_tokens: 5, tokens=7", None),
    ],
)
def test_passwords_are_starred_and_nothing_else(text: str, shown: str | None) -> None:
    assert without_passwords(text) == (text if shown is None else shown)


def test_errors_hold_no_password() -> None:
    for kind in (ThothyError, ManifestError):
        error = kind("cannot read postgres://me:pw@host/db")
        assert ":pw@" not in f"{error} {error.message} {error.as_json()}"


def test_the_hash_of_a_manifest_still_tells_passwords_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "oaklamp98765")
    hashes = set()
    for password in ("firstword", "secondword"):
        path = tmp_path / "m.yaml"
        path.write_text(_MANIFEST.replace("secret123456", password))
        manifest = load_manifest(path)
        hashes.add(manifest.manifest_hash)
        assert password not in str(manifest.as_json())
    assert len(hashes) == 2


def test_words_of_ordinary_errors_stay() -> None:
    for text in (
        "expected token 'end of print statement', got 'foo'",
        "unexpected token 'x' in the secretary's note",
        "a.a." * 300_000,  # and that in linear time
    ):
        assert str(ThothyError(text)) == text
    assert "hush" not in ThothyError("x", hint="password='hush'").hint
