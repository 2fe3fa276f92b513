"""Loading holds the weights once, and little beside them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from thothy_batch.model.config.model_config import load_config
from thothy_batch.model.weights import empty_weights, places

# 205 MB in bfloat16, 30 MB of them in each layer.
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 10_240,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 5,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
# Prints the bytes that loading took at most beyond what was resident before, and those it kept.
LOAD = """
import sys
from thothy_batch.model.loading import load_decoder
from thothy_batch.records import ModelSpec
from thothy_kernels.linear import pack_linear
import torch

def resident(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

torch.set_num_threads(1)
pack_linear(torch.zeros(512, 512, dtype=torch.bfloat16), None, impl="cpu")
before = resident("VmRSS")
spec = ModelSpec(sys.argv[1], dtype="bfloat16")
model = load_decoder(spec, device="cpu", impl="cpu")
print(resident("VmHWM") - before, resident("VmRSS") - before)
"""


@pytest.mark.rest
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what is resident")
def test_loading_holds_the_weights_once_and_a_layer_beside_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    config = load_config(tmp_path)
    tensors = {
        name: torch.zeros(part.shape, dtype=part.dtype)
        for name, part in places(config, empty_weights(config, "bfloat16")).items()
    }
    save_file(tensors, tmp_path / "model.safetensors")
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    layer = sum(t.nbytes for name, t in tensors.items() if name.startswith("model.layers.0."))
    del tensors
    assert num_bytes > 190e6
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    most, kept = map(int, done.stdout.split())
    # A layer's pages of the file while it is read; what the libraries take at first use.
    margin = 64e6
    assert most < num_bytes + layer + margin
    assert kept < num_bytes + margin
