"""Files of a checkpoint that are damaged or hold other types: one sentence with file and key."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thothy_batch.errors import ModelError
from thothy_batch.model.config import load_config
from thothy_batch.model.tokenizer.tokenizer import Tokenizer
from thothy_batch.resources import data_path

CONFIG, TOKENIZER = "tokenizer_config.json", "tokenizer.json"
CHAT = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model without its weights, with every companion file that is read."""
    folder = tmp_path_factory.mktemp("source")
    for file in (data_path("sample_data") / "model").glob("*.json"):
        shutil.copy(file, folder)
    tokenizer = json.loads((folder / TOKENIZER).read_text())
    vocab = tokenizer["model"]["vocab"]
    (folder / "added_tokens.json").write_text(json.dumps({"<think>": len(vocab)}))
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": {"content": "<|im_end|>", "lstrip": False}})
    )
    (folder / "chat_template.json").write_text('{"chat_template": "{{ messages[0].content }}"}')
    return folder


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "model"))


def load(folder: Path) -> Tokenizer:
    """Whatever a run does with the small files before anything starts."""
    load_config(folder)
    tokenizer = Tokenizer.from_dir(folder)
    tokenizer.check_chat()
    tokenizer.chat_ids(CHAT)
    return tokenizer


def fault_of(folder: Path) -> str:
    """The message of the error in a folder, which is removed; "" for none."""
    try:
        load(folder)
    except ModelError as error:
        return error.message
    finally:
        shutil.rmtree(folder)
    return ""


def change(folder: Path, name: str, **values: object) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


BAD_TOKENS: list[object] = [7, True, [], {}, {"content": 7}, {"content": None}, ["x"], "\ud800"]
BAD_LISTS: list[object] = [7, "x", [7], [None], [{"lstrip": True}], [["x"]]]
BAD_IDS: list[object] = ["2", 1.5, True, ["2"], {}, -1, [1, -1], [[1]], [None]]
BAD_TEMPLATES: list[object] = [
    7, True, ["a", "b"], [{"name": "default"}], [{"template": "x"}], [{"name": 1, "template": "x"}],
    {"default": 7}, [None], [{"name": "a", "template": "x"}, {"name": "b", "template": "y"}],
    [], {}, {"tool_use": "{{ messages }}"}, [{"name": "rag", "template": "{{ messages }}"}],
    "{% for %}", "{{ x", "{% endfor %}", "{{ x | nofilter }}", "{% for i in " + "(" * 3000 + "%}",
    "{% if x %}" * 120 + "{{ messages }}" + "{% endif %}" * 120, "{{ " + "9" * 5000 + " }}",
    "{% for i in [1] %}" * 30 + "{{ messages }}" + "{% endfor %}" * 30, "x" * 600_000, "",
    "{{ '\ud800' }}",
]  # fmt: skip
BAD_VALUES: list[tuple[str, str, object]] = [
    *((CONFIG, "bos_token", value) for value in BAD_TOKENS),
    *((CONFIG, "pad_token", value) for value in BAD_TOKENS),
    *((CONFIG, "additional_special_tokens", value) for value in BAD_LISTS),
    *((CONFIG, "extra_special_tokens", value) for value in BAD_LISTS),
    *((CONFIG, "extra_special_tokens", {"image_token": value}) for value in BAD_TOKENS),
    *((CONFIG, "added_tokens_decoder", {"1": value}) for value in [*BAD_TOKENS, "x", None]),
    *((CONFIG, "added_tokens_decoder", value) for value in (7, [], "x", {"x": {"content": "a"}})),
    (CONFIG, "added_tokens_decoder", {"1": {"content": "a", "special": "yes"}}),
    *((CONFIG, "chat_template", value) for value in BAD_TEMPLATES),
    *((CONFIG, key, "yes") for key in ("add_bos_token", "add_eos_token")),
    *((CONFIG, key, 1) for key in ("add_bos_token", "add_eos_token")),
    *((CONFIG, "model_max_length", value) for value in ("abc", "512", True, [512], {})),
    *((CONFIG, "tokenizer_class", value) for value in (7, [], {})),
    *(("chat_template.json", "chat_template", value) for value in BAD_TEMPLATES),
    *(("special_tokens_map.json", "eos_token", value) for value in BAD_TOKENS),
    *(("added_tokens.json", "<x>", value) for value in ("x", None, [1], 1.5, True, -1)),
    *(("generation_config.json", "eos_token_id", value) for value in BAD_IDS),
    *(("config.json", "eos_token_id", value) for value in BAD_IDS),
    *(("config.json", "text_config", {"eos_token_id": value}) for value in BAD_IDS),
]


@pytest.mark.few(20)
@pytest.mark.parametrize(("name", "key", "value"), BAD_VALUES)
def test_a_value_of_another_type_is_named_with_file_and_key(
    name: str, key: str, value: object, folder: Path
) -> None:
    if name == "chat_template.json":
        change(folder, CONFIG, chat_template=None)
    change(folder, name, **{key: value})
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert str(folder / name) in caught.value.message
    assert key.strip("<>") in caught.value.message


NAMES = [
    CONFIG, TOKENIZER, "config.json", "generation_config.json", "added_tokens.json",
    "special_tokens_map.json", "chat_template.json", "chat_template.jinja",
    "additional_chat_templates/default.jinja",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [b"\xff\xfe\x00{", b"caf\xe9 {", b"\x80"])
def test_a_file_that_is_not_utf8_is_named(name: str, content: bytes, folder: Path) -> None:
    if name == "chat_template.json":
        change(folder, CONFIG, chat_template=None)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert str(folder / name) in caught.value.message


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".json")])
@pytest.mark.parametrize(
    "content", ["", "[", '["a"]', '"a"', "7", "null", "[" * 100_000, '{"a": 1,}', "\ufeff{}"]
)
def test_a_file_that_holds_no_object_is_named(name: str, content: str, folder: Path) -> None:
    if name == "chat_template.json":
        change(folder, CONFIG, chat_template=None)
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert str(folder / name) in caught.value.message


def test_values_that_transformers_takes_are_taken(folder: Path) -> None:
    change(
        folder,
        CONFIG,
        tokenizer_class=None,
        bos_token=None,
        pad_token={"__type": "AddedToken", "content": "<|endoftext|>", "id": 0, "new": [1]},
        additional_special_tokens=None,
        extra_special_tokens={"image_token": "<image>", "none_token": None},
        add_bos_token=None,
        model_max_length=1000000000000000019884624838656,
        legacy=None,
        chat_template={
            "tool_use": "no",
            "default": "{{ messages | map(attribute='content') | join }}",
        },
    )
    change(folder, "generation_config.json", eos_token_id=None)
    change(folder, "config.json", eos_token_id=[0, 2])
    assert load(folder).render_chat(CHAT) == "SU"


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in a JSON document but those deep in a long list."""
    found = [path]
    if isinstance(value, dict):
        for key in list(value)[:30]:
            found += places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 3)):
            found += places(value[index], (*path, index))
    return found


ODD = st.one_of(
    st.sampled_from([None, True, -1, 0, 7, 2**70, 1.5, "", "x", [], {}, ["a"], [None], {"a": 1}]),
    st.sampled_from(["\ud800", "\x00", "{{", "<|im_end|>", {"content": 1}, [[]], "9" * 5000]),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=5,
    ),
)


@pytest.mark.rest
@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_value_of_any_file_gives_another_error(
    data: st.DataObject, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One value, at any place of any file, is replaced or removed."""
    folder = Path(shutil.copytree(source, tmp_path_factory.mktemp("odd") / "model"))
    name = data.draw(st.sampled_from([name for name in NAMES if name.endswith(".json")]))
    content = json.loads((folder / name).read_text())
    *path, last = data.draw(st.sampled_from([p for p in places(content) if p]))
    inner: Any = content
    for key in path:
        inner = inner[key]
    if data.draw(st.booleans()) or not isinstance(inner, dict):
        inner[last] = data.draw(ODD)
    else:
        del inner[last]
    (folder / name).write_text(json.dumps(content))
    message = fault_of(folder)
    assert not message or name in message or "chat template" in message


@pytest.mark.rest
@given(data=st.data())
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_damage_to_any_byte_gives_another_error(
    data: st.DataObject, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Path(shutil.copytree(source, tmp_path_factory.mktemp("bytes") / "model"))
    name = data.draw(st.sampled_from([name for name in NAMES if name.endswith(".json")]))
    content = bytearray((folder / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(content), 3_000) - 1))
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    (folder / name).write_bytes(content)
    message = fault_of(folder)
    assert not message or name in message or "chat template" in message


PIECES = [
    "{{", "}}", "{%", "%}", "for i in ", "if ", "endif", "endfor", "set x = ", "messages", "[0]",
    ".content", "|", "~", "x", "'a'", "range(99999)", "*", "(", ")", "loop", "macro m()",
    "endmacro", "raise_exception('r')", "strftime_now('%c')", "namespace()", "tojson", "9", ",",
    "block b",
    "include 'f'", "extends 'f'", "import 'f' as f", "generation", "endgeneration", "continue",
    "break", "\x00", "é", "self", "caller()", "__class__", "join", "is defined", "recursive",
]  # fmt: skip


@pytest.mark.rest
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=25))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_text_of_a_template_gives_another_error(
    pieces: list[str], source: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Path(shutil.copytree(source, tmp_path_factory.mktemp("template") / "model"))
    file = folder / "chat_template.jinja"
    file.write_text(" ".join(pieces), encoding="utf-8")
    message = fault_of(folder)
    assert not message or str(file) in message


def test_a_template_without_end_is_refused_once(folder: Path, monkeypatch: Any) -> None:
    from thothy_batch.templating import sandbox

    monkeypatch.setattr(sandbox, "MAX_STEPS", 20_000)
    file = folder / "chat_template.jinja"
    file.write_text(
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    )
    with pytest.raises(ModelError, match="steps") as caught:
        load(folder)
    assert str(file) in caught.value.message


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_or_a_dangling_link_in_place_of_a_file_is_named(name: str, folder: Path) -> None:
    if name == "chat_template.json":
        change(folder, CONFIG, chat_template=None)
    for put in (Path.mkdir, lambda path: path.symlink_to(folder / "nothing")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        put(folder / name)
        with pytest.raises(ModelError) as caught:
            load(folder)
        assert str(folder / name) in caught.value.message
        if (folder / name).is_dir():
            (folder / name).rmdir()


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".json")])
def test_a_byte_order_mark_is_called_by_its_name(name: str, folder: Path) -> None:
    if name == "chat_template.json":
        change(folder, CONFIG, chat_template=None)
    text = (folder / name).read_text()
    for encoding in ("utf-8-sig", "utf-16"):
        (folder / name).write_text(text, encoding=encoding)
        with pytest.raises(ModelError, match="byte order mark") as caught:
            load(folder)
        assert str(folder / name) in caught.value.message
        assert "save it as UTF-8" in caught.value.hint


def test_damage_shows_in_files_that_newer_settings_make_unnecessary(folder: Path) -> None:
    change(folder, CONFIG, added_tokens_decoder={})
    assert load(folder).has_chat_template
    for name, content in (
        ("special_tokens_map.json", "[]"),
        ("special_tokens_map.json", '{"eos_token": 7}'),
        ("special_tokens_map.json", '{"pad_token": [1]}'),
        ("added_tokens.json", '{"<x>": -1}'),
    ):
        before = (folder / name).read_text()
        (folder / name).write_text(content)
        with pytest.raises(ModelError, match=name):
            load(folder)
        (folder / name).write_text(before)


def test_other_keys_beside_named_tokens_are_nobodys_business(folder: Path) -> None:
    """transformers takes any key of special_tokens_map.json, or does not read the file."""
    for name in (CONFIG, "special_tokens_map.json"):
        change(
            folder,
            name,
            eos_token_id=2,
            add_prefix_space=False,
            split_special_tokens=False,
            add_bos_token=None,
            model_input_names=["input_ids"],
            auto_map={"AutoTokenizer": ["a.B", None]},
        )
        assert load(folder).has_chat_template


def test_end_tokens_beyond_the_vocabulary_are_noted_with_file_and_key(folder: Path) -> None:
    size = load_config(folder).vocab_size
    assert load(folder).stop_notes(size) == []
    change(folder, "special_tokens_map.json", eos_token="<nope>")  # it comes last
    change(folder, "config.json", eos_token_id=[0, size])
    change(folder, "generation_config.json", eos_token_id=999_999)
    notes = "\n".join(load(folder).stop_notes(size))
    assert f"{folder / 'config.json'}: eos_token_id has the id {size}, beyond" in notes
    assert f"{folder / 'generation_config.json'}: eos_token_id has the id 999999" in notes
    assert "has no end token" not in notes
    change(folder, "config.json", eos_token_id=None)
    change(folder, "generation_config.json", eos_token_id=None)
    notes = "\n".join(load(folder).stop_notes(size))
    assert f"{folder / 'special_tokens_map.json'}: eos_token '<nope>' has the id" in notes
    assert "the model has no end token" in notes
