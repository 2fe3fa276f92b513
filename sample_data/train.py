"""Trains the tokenizer and the embedded model from scratch; goes on from its checkpoint.

    nice -n -5 python sample_data/train.py --minutes 60 --out sample_data/model

Prints loss and tokens per second; writes the weights at every checkpoint, so that the folder
holds a usable model at any time. CPU or CUDA; matrix products run in bfloat16 where that is on.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from batches import batches
from build_tokenizer import CONTEXT, VOCAB_SIZE, train_tokenizer, write_tokenizer

EOS_ID, END_OF_TEXT_ID = 2, 0


@dataclass
class Progress:
    """What a checkpoint remembers beside weights and optimizer state."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    loss: float = 0.0

    def count(self, loss: float, seconds: float) -> None:
        """Add one step; the loss is a running mean."""
        keep = 0.98 if self.step else 0.0
        self.loss = keep * self.loss + (1 - keep) * loss
        self.step += 1
        self.seconds += seconds

    def line(self) -> str:
        """What is printed."""
        rate = self.tokens / self.seconds
        minutes = self.seconds / 60
        return f"step {self.step} min {minutes:.1f} loss {self.loss:.4f} tokens/s {rate:.0f}"


def build_model(seed: int) -> Qwen3ForCausalLM:
    """A small Qwen3: tied embeddings, grouped queries, normed queries and keys."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS_ID,
        pad_token_id=END_OF_TEXT_ID,
        use_cache=False,
    )
    return Qwen3ForCausalLM(config)


def build_optimizers(model: nn.Module, matrix_lr: float, other_lr: float) -> list:
    """Muon for the matrices of the layers, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = torch.optim.Muon(
        matrices, lr=matrix_lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(others, lr=other_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    for optimizer in (muon, adamw):
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return [muon, adamw]


def learning_rate(share: float, step: int, warmup: int = 60) -> float:
    """Factor on the peak: linear warmup by steps, cosine to 3 % by time."""
    cosine = 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    return min(1.0, (step + 1) / warmup) * cosine


def loss_of(model: Qwen3ForCausalLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Weighted cross entropy over the tokens that count, logits only for those."""
    labels, weights = batch.pop("labels"), batch.pop("weights")
    hidden = model.model(**batch, use_cache=False).last_hidden_state
    counted = weights > 0
    logits = model.lm_head(hidden[counted]).float()
    losses = nn.functional.cross_entropy(logits, labels[counted], reduction="none")
    return (losses * weights[counted]).sum() / weights[counted].sum()


def export(model: Qwen3ForCausalLM, out: Path, progress: Progress) -> None:
    """Write config, generation config and bfloat16 weights (the tied matrix once)."""
    copy = Qwen3ForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.config.use_cache = True
    copy.generation_config = GenerationConfig(
        eos_token_id=[EOS_ID, END_OF_TEXT_ID], pad_token_id=END_OF_TEXT_ID, do_sample=False
    )
    copy.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    (out / "training.json").write_text(json.dumps(vars(progress)) + "\n", encoding="utf-8")
    model.config.use_cache = False


class Trainer:
    """Model, optimizers and progress; everything that a checkpoint holds."""

    def __init__(self, args: argparse.Namespace, tokenizer: Tokenizer) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = build_model(args.seed).to(self.device)
        self.optimizers = build_optimizers(self.model, args.matrix_lr, args.lr)
        self.progress = Progress()
        self.seconds = args.minutes * 60
        self.use_bfloat16 = not args.float32
        self.checkpoint = Path(args.checkpoint)
        if self.checkpoint.exists():
            self._resume()
        rng = random.Random(args.seed * 1_000_003 + self.progress.step)
        self.feed = batches(rng, tokenizer, args.tokens)
        next(self.feed)

    @property
    def share(self) -> float:
        """How much of the budget is used up, 0 to 1."""
        return self.progress.seconds / self.seconds

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optim"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])

    def save(self) -> None:
        """Write a checkpoint, replacing the last one in one go."""
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        content = {
            "model": self.model.state_dict(),
            "optim": states,
            "progress": vars(self.progress),
        }
        partial = self.checkpoint.with_suffix(".tmp")
        torch.save(content, partial)
        partial.replace(self.checkpoint)

    def step(self) -> None:
        """One batch, one update."""
        began = time.monotonic()
        batch = {name: t.to(self.device) for name, t in self.feed.send(self.share).items()}
        self.progress.tokens += batch["input_ids"].numel()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.use_bfloat16):
            loss = loss_of(self.model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        factor = learning_rate(self.share, self.progress.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad()
        self.progress.count(loss.item(), time.monotonic() - began)


def train(args: argparse.Namespace) -> None:
    """Step until the minutes are over; save every now and then."""
    out = Path(args.out)
    if not (out / "tokenizer.json").exists():
        write_tokenizer(train_tokenizer(args.seed), out)
    trainer = Trainer(args, Tokenizer.from_file(str(out / "tokenizer.json")))
    progress = trainer.progress
    num_parameters = sum(p.numel() for p in trainer.model.parameters())
    print(f"{num_parameters:,} parameters on {trainer.device}", flush=True)
    last_saved = time.monotonic()
    while trainer.share < 1:
        trainer.step()
        if progress.step % 25 == 0:
            print(progress.line(), flush=True)
        if time.monotonic() - last_saved > args.save_every:
            trainer.save()
            export(trainer.model, out, progress)
            last_saved = time.monotonic()
    trainer.save()
    export(trainer.model, out, progress)
    print(json.dumps(vars(progress)))


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", default="sample_data/model")
    parser.add_argument("--checkpoint", default="sample_data/.checkpoint.pt")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=6144, help="tokens per step")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak, embeddings and norms")
    parser.add_argument("--matrix-lr", type=float, default=3e-3, help="peak, matrices")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=float, default=120.0, help="seconds")
    parser.add_argument("--float32", action="store_true", help="no bfloat16 products")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
