"""Checkpoints to read: tiny random ones that transformers wrote, and a loop that generates."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from thothy_batch.model.inputs import ForwardInputs
from thothy_batch.model.kv_pool import KVPool
from thothy_batch.model.loading import LoadedModel
from thothy_batch.model.tokenizer import Tokenizer
from thothy_kernels.paged_attention import AttentionMetadata

BLOCK_SIZE = 8

TINY = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}

# family → (configuration class in transformers, settings over TINY); each stands for one way in
# which checkpoints differ.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama-tied-bias": (
        "LlamaConfig",
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "llama-odd-heads": (
        "LlamaConfig",
        {"hidden_size": 63, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 16},
    ),
    "llama-no-sharing-llama3": (
        "LlamaConfig",
        {
            "num_key_value_heads": 4,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "mistral": ("MistralConfig", {"sliding_window": None, "head_dim": 32}),
    "mistral-wide-window": ("MistralConfig", {"sliding_window": 1024, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2Config", {"num_attention_heads": 3, "num_key_value_heads": 1}),
    "qwen2-tied-yarn": (
        "Qwen2Config",
        {
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "qwen3": ("Qwen3Config", {"head_dim": 64}),
    "qwen3-tied-bias-wide-heads": (
        "Qwen3Config",
        {"head_dim": 256, "tie_word_embeddings": True, "attention_bias": True},
    ),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors of this size gain nothing from threads, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=list(VARIANTS))
def variant(request: pytest.FixtureRequest) -> str:
    """Each of the variants in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def make_checkpoint(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., tuple[Path, Any]]:
    """Write a tiny random model of a variant; returns its directory and transformers' model."""
    import transformers

    made: dict[str, tuple[Path, Any]] = {}

    def make(variant: str) -> tuple[Path, Any]:
        if variant not in made:
            class_name, settings = VARIANTS[variant]
            config = getattr(transformers, class_name)(**(TINY | settings))
            torch.manual_seed(1)
            model = transformers.AutoModelForCausalLM.from_config(config).eval()
            with torch.no_grad():
                for parameter in model.parameters():  # biases are zero and norms one otherwise
                    parameter.add_(torch.randn_like(parameter) * 0.1)
            directory = tmp_path_factory.mktemp(variant)
            model.save_pretrained(directory)
            made[variant] = directory, model
        return made[variant]

    return make


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """Change keys of a JSON file in place; a value of None removes the key."""

    def edit(path: Path, **changes: object) -> None:
        content = json.loads(path.read_text())
        for key, value in changes.items():
            content[key] = value
            if value is None:
                del content[key]
        path.write_text(json.dumps(content))

    return edit


class Feeder:
    """Feeds prompts to a decoder, whole or in parts, alone or with others, in a poisoned pool."""

    def __init__(
        self, model: LoadedModel, *, impl: str = "reference", num_blocks: int = 96
    ) -> None:
        self.model = model
        self.pool = KVPool.allocate(model.config, num_blocks, BLOCK_SIZE, model.dtype, impl=impl)
        for tensor in (*self.pool.k, *self.pool.v):
            tensor.fill_(float("nan"))  # a read outside a sequence's own slots would show
        self._free = list(range(num_blocks - 1, 0, -2)) + list(range(0, num_blocks, 2))

    def table(self, num_tokens: int) -> list[int]:
        """Blocks for that many tokens, not side by side."""
        return [self._free.pop() for _ in range(-(-num_tokens // BLOCK_SIZE))]

    def step(
        self, parts: list[tuple[list[int], int, list[int]]], rows: str = "all"
    ) -> torch.Tensor:
        """Compute (token ids so far, of them computed, block table) of each sequence in one step.

        Returns logits of all new tokens, of the last of each sequence, or of none.
        """
        token_ids, positions, slots, lens, cu = [], [], [], [], [0]
        for ids, done, table in parts:
            token_ids += ids[done:]
            for position in range(done, len(ids)):
                positions.append(position)
                slots.append(table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE)
            lens.append(len(ids))
            cu.append(len(token_ids))
        width = max(len(table) for _, _, table in parts)
        tables = [table + [-1] * (width - len(table)) for _, _, table in parts]
        meta = AttentionMetadata(
            torch.tensor(cu, dtype=torch.int32),
            torch.tensor(lens, dtype=torch.int32),
            torch.tensor(tables, dtype=torch.int32),
            max(len(ids) - done for ids, done, _ in parts),
        )
        wanted = {
            "all": list(range(len(token_ids))),
            "last": [end - 1 for end in cu[1:]],
            "none": [],
        }[rows]
        inputs = ForwardInputs(
            torch.tensor(token_ids),
            torch.tensor(positions),
            torch.tensor(slots),
            meta,
            torch.tensor(wanted, dtype=torch.int64),
        )
        return self.model.decoder.forward(inputs, self.pool)

    def logits(self, ids: list[int]) -> torch.Tensor:
        """Logits of every position of a prompt computed alone and whole."""
        return self.step([(ids, 0, self.table(len(ids)))])

    def greedy(self, prompt: list[int], num_tokens: int) -> list[int]:
        """Continue a prompt by the most likely token, one at a time."""
        ids, done = list(prompt), 0
        table = self.table(len(prompt) + num_tokens)
        for _ in range(num_tokens):
            logits = self.step([(ids, done, table)], rows="last")
            done = len(ids)
            ids.append(int(logits[0].argmax()))
        return ids[len(prompt) :]


@pytest.fixture
def feeder() -> type[Feeder]:
    return Feeder


TEXTS = [
    "Hello, world!",
    "",
    " ",
    " leading and trailing ",
    "a  b   c\n\n\td\r\n    indented",
    "Zażółć gęślą jaźń, 日本語のテキスト, عربى, हिन्दी, é (combining: e\u0301)",
    "😀 👩‍👩‍👧 \u200b\ufeff\ufffd \U000f0000",
    "1234567890 3.14 -- x=y; `code` <b>bold</b> 'quotes' \"double\"",
    "▁ already here, and ĠGPT's own",
    "word " * 200,
]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Texts on which tokenizers differ: spaces, scripts, emoji, private characters."""
    return TEXTS


@pytest.fixture(scope="session")
def pair(shared: Path) -> Callable[[str], tuple[Tokenizer, Any]]:
    """Our tokenizer and transformers', by name."""
    from transformers import AutoTokenizer

    made: dict[str, tuple[Tokenizer, Any]] = {}

    def get(name: str) -> tuple[Tokenizer, Any]:
        if name not in made:
            directory = shared / "data" / "tokenizers" / name
            if not directory.is_dir():
                directory = shared / "data" / "weights" / name
            oracle = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            made[name] = Tokenizer.from_dir(directory), oracle
        return made[name]

    return get


@pytest.fixture
def stories(shared: Path, tmp_path: Path) -> Path:
    """A copy of a small tokenizer that puts <s> before every text, to change in tests."""
    source = shared / "data" / "weights" / "stories260K"
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    return tmp_path
