"""Checkpoints to read: tiny random ones that transformers wrote, and a loop that generates."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from thothy_batch.model.config import layer_groups
from thothy_batch.model.inputs import ForwardInputs, GroupInputs
from thothy_batch.model.kv_pool import KVPool
from thothy_batch.model.loading import LoadedModel
from thothy_batch.model.tokenizer import Tokenizer
from thothy_kernels.paged_attention import AttentionMetadata

BLOCK_SIZE = 8
SLIDING, FULL = "sliding_attention", "full_attention"

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
    "mistral-window": ("MistralConfig", {"sliding_window": 16, "num_hidden_layers": 1}),
    "ministral-mixed": (
        "MinistralConfig",
        {
            "num_hidden_layers": 5,
            "head_dim": 16,
            "sliding_window": 19,
            "layer_types": [SLIDING, FULL, SLIDING, SLIDING, FULL],
        },
    ),
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
    "qwen2-window-above": (
        "Qwen2Config",
        {
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "max_window_layers": 1,
            "sliding_window": 24,
        },
    ),
    "qwen3": ("Qwen3Config", {"head_dim": 64}),
    "qwen3-mixed": (
        "Qwen3Config",
        {
            "num_hidden_layers": 3,
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": 9,
            "layer_types": [SLIDING, FULL, SLIDING],
        },
    ),
    "qwen3-tied-bias-wide-heads": (
        "Qwen3Config",
        {"head_dim": 256, "tie_word_embeddings": True, "attention_bias": True},
    ),
    # Softcaps low enough to bend what weights of this size give.
    "gemma2": (
        "Gemma2Config",
        {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "sliding_window": 16,
            "vocab_size": 101,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 4.0,
        },
    ),
    "gemma2-2b-heads": (
        "Gemma2Config",
        {
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 40,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3-1b-heads": (
        "Gemma3TextConfig",
        {
            "num_hidden_layers": 7,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "sliding_window": 32,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3-linear-bias": (
        "Gemma3TextConfig",
        {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "sliding_window": 13,
            "attention_bias": True,
            "query_pre_attn_scalar": 10,
            "final_logit_softcapping": 5.0,
            "layer_types": [SLIDING, FULL, FULL, SLIDING],
            "rope_parameters": {
                FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e4},
                SLIDING: {"rope_type": "default", "rope_theta": 500.0},
            },
        },
    ),
    "gemma3-with-vision": (
        "Gemma3Config",
        {
            "tie_word_embeddings": True,
            "text_config": {"head_dim": 16, "sliding_window": 20, "num_hidden_layers": 6},
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 16,
                "patch_size": 8,
            },
            "mm_tokens_per_image": 4,
        },
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
            config = getattr(transformers, class_name)(**_over_tiny(settings))
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


def _over_tiny(settings: dict[str, Any]) -> dict[str, Any]:
    if "text_config" not in settings:
        return TINY | settings
    text = TINY | {"tie_word_embeddings": True} | settings["text_config"]
    return settings | {"text_config": text}


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


# Blocks of a sequence, for each layer group.
Table = list[list[int]]


class Feeder:
    """Feeds prompts to a decoder, whole or in parts, alone or with others, in a poisoned pool."""

    def __init__(self, model: LoadedModel, *, impl: str = "reference", num_pages: int = 96) -> None:
        self.model = model
        self.groups = layer_groups(model.config)
        self.pool = KVPool.allocate(model.config, num_pages, BLOCK_SIZE, model.dtype, impl=impl)
        for tensor in (self.pool.k, self.pool.v):
            tensor.fill_(float("nan"))  # a read outside a sequence's own slots would show
        self._free = [self._blocks_of(number, num_pages) for number in range(len(self.groups))]

    def _blocks_of(self, number: int, num_pages: int) -> list[int]:
        """Blocks in every so-many-th large page, out of order."""
        sizes = [len(group.layers) for group in self.groups]
        per_page = math.lcm(*sizes) // sizes[number]
        pages = list(range(number, num_pages, len(sizes)))
        pages = pages[::-2] + pages[len(pages) % 2 :: 2]
        return [page * per_page + i for page in pages for i in range(per_page)]

    def table(self, num_tokens: int) -> Table:
        """Blocks for that many tokens, not side by side."""
        num_blocks = -(-num_tokens // BLOCK_SIZE)
        return [[free.pop() for _ in range(num_blocks)] for free in self._free]

    def step(self, parts: list[tuple[list[int], int, Table]], rows: str = "all") -> torch.Tensor:
        """Compute (token ids so far, of them computed, block table) of each sequence in one step.

        Returns logits of all new tokens, of the last of each sequence, or of none.
        """
        token_ids = [token for ids, done, _ in parts for token in ids[done:]]
        positions = [position for ids, done, _ in parts for position in range(done, len(ids))]
        ends = torch.tensor([len(ids) - done for ids, done, _ in parts]).cumsum(0)
        wanted = {"all": torch.arange(len(token_ids)), "last": ends - 1, "none": ends[:0]}[rows]
        inputs = ForwardInputs(
            torch.tensor(token_ids),
            torch.tensor(positions),
            tuple(self._group_inputs(number, parts) for number in range(len(self.groups))),
            wanted,
        )
        return self.model.decoder.forward(inputs, self.pool)

    def _group_inputs(self, number: int, parts: list[tuple[list[int], int, Table]]) -> GroupInputs:
        slots, tables, cu, window = [], [], [0], self.groups[number].window
        for ids, done, by_group in parts:
            table = by_group[number]
            for position in range(done, len(ids)):
                slots.append(table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE)
            # Blocks that no query sees any more have been given to others.
            gone = 0 if window is None else max(0, done - window + 1) // BLOCK_SIZE
            tables.append([-1] * gone + table[gone:])
            cu.append(cu[-1] + len(ids) - done)
        width = max(len(table) for table in tables)
        meta = AttentionMetadata(
            torch.tensor(cu, dtype=torch.int32),
            torch.tensor([len(ids) for ids, _, _ in parts], dtype=torch.int32),
            torch.tensor([t + [-1] * (width - len(t)) for t in tables], dtype=torch.int32),
            max(len(ids) - done for ids, done, _ in parts),
            window=window,
        )
        return GroupInputs(torch.tensor(slots), meta)

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
