"""Writes real checkpoints that complete every prompt with given tokens.

Each token of its vocabulary has one successor, whatever stands before it: attention and MLP add
nothing, the head of a token is the embedding of the one before it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import small_tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
END = "<|im_end|>"
_HIDDEN = 256


def write(
    folder: Path,
    pieces: Sequence[str],
    *,
    special: Sequence[str] = (),
    template: str = CHATML,
    loop_from: int | None = None,
    eos: Sequence[str] = (END,),
) -> Path:
    """Write the checkpoint; each piece is a token of its own, the special ones without text.

    The completion begins where the prompt ends in a line's end. After the last piece comes the
    end token, or the piece `loop_from`.
    """
    assert len({*pieces, "\n"}) == len(pieces) + 1, "each token has one successor"
    kinds = (*small_tokenizers.SPECIAL, *(text for text in special))
    added = [text for text in pieces if text not in kinds]
    small_tokenizers.byte_level(folder, added, kinds)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [tokenizer.token_to_id(text) for text in pieces]
    begin = tokenizer.encode("\n", add_special_tokens=False).ids[-1]
    last = tokenizer.token_to_id(END) if loop_from is None else ids[loop_from]
    (folder / "chat_template.jinja").write_text(template)
    eos_ids = [tokenizer.token_to_id(text) for text in eos]
    _write_weights(folder, tokenizer.get_vocab_size(), [begin, *ids, last], eos_ids)
    return folder


def _write_weights(folder: Path, vocab: int, ids: list[int], eos_ids: list[int]) -> None:
    embed = torch.randn(vocab, _HIDDEN, generator=torch.Generator().manual_seed(1))
    head = torch.zeros(vocab, _HIDDEN)
    for before, after in zip(ids, ids[1:], strict=False):
        head[after] += embed[before]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": _HIDDEN // 4,
        "vocab_size": vocab,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos_ids}))
    weights = {
        "model.embed_tokens.weight": embed,
        "lm_head.weight": head,
        "model.norm.weight": torch.ones(_HIDDEN),
    }
    layer = "model.layers.0."
    for name in "qkvo":
        weights[f"{layer}self_attn.{name}_proj.weight"] = torch.zeros(_HIDDEN, _HIDDEN)
    for name in ("gate", "up"):
        weights[f"{layer}mlp.{name}_proj.weight"] = torch.zeros(16, _HIDDEN)
    weights[f"{layer}mlp.down_proj.weight"] = torch.zeros(_HIDDEN, 16)
    for name in ("input", "post_attention"):
        weights[f"{layer}{name}_layernorm.weight"] = torch.ones(_HIDDEN)
    save_file(weights, str(folder / "model.safetensors"))
