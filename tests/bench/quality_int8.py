"""The loss of quality by int8: against bfloat16, and against float32 as the yardstick.

    python tests/bench/quality_int8.py [--rows 100] [--out tests/bench/results/int8-quality.json]

On the two trained models that are at hand: stories260K of the shared folder, with its golden
greedy continuations and on real documents, and the embedded model, with held-out rows of its four
tasks. Both are very small, and their figures are no promise for a large model.

Teacher-forced, per token: Kullback-Leibler divergence from float32's distribution (nats),
agreement of the likeliest token, perplexity. Greedy: continuations that agree with float32's to
the end, and how far they do; the embedded model's artifacts that pass the checks of their kind.
"int8, plain head" leaves the LM head in bfloat16. The last line is JSON.
"""

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from provenance import ROOT, short_commit

from thothy_batch.engine.cost.measurement_cache import device_name
from thothy_batch.engine.in_process import InProcessEngine
from thothy_batch.model.inputs import ForwardInputs, GroupInputs
from thothy_batch.model.kv_pool import KVPool
from thothy_batch.model.loading import LoadedModel, load_decoder
from thothy_batch.records import EngineSpec, ModelSpec, Request, Sampling
from thothy_kernels.linear import pack_linear
from thothy_kernels.paged_attention import AttentionMetadata

STORIES = ROOT.parent / "shared" / "data" / "weights" / "stories260K"
DOCUMENTS = ROOT.parent / "shared" / "data" / "content" / "summary.parquet"
EMBEDDED = ROOT / "sample_data" / "model"
NUM_DOCUMENTS = 30
DOCUMENT_LEN = 256
BLOCK = 32


@dataclass(frozen=True, slots=True)
class Variant:
    """In what the linears are computed; `plain_head`: all but the LM head."""

    dtype: str
    quantization: str = "none"
    plain_head: bool = False

    def model(self, directory: Path) -> ModelSpec:
        return ModelSpec(id=str(directory), dtype=self.dtype, quantization=self.quantization)


VARIANTS = {
    "float32": Variant("float32"),
    "bfloat16": Variant("bfloat16"),
    "int8 in bfloat16": Variant("bfloat16", "int8"),
    "int8 in bfloat16, plain head": Variant("bfloat16", "int8", plain_head=True),
    "int8 in float32": Variant("float32", "int8"),
}


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids, and from where on they are judged."""

    ids: list[int]
    start: int = 1


def load(directory: Path, variant: Variant) -> LoadedModel:
    model = load_decoder(variant.model(directory), device="cpu", impl="cpu")
    if variant.plain_head:  # for this comparison alone: both models have tied embeddings
        model.decoder._head = pack_linear(model.decoder._embedding_VN, None, impl="cpu")
    return model


def logits_of(model: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Logits of every position, [T, V]: the text by itself, in one step."""
    num_blocks = -(-len(ids) // BLOCK)
    kv = KVPool.allocate(model.config, num_blocks, BLOCK, model.dtype, impl="cpu")
    positions = torch.arange(len(ids))
    meta = AttentionMetadata(
        torch.tensor([0, len(ids)], dtype=torch.int32),
        torch.tensor([len(ids)], dtype=torch.int32),
        torch.arange(num_blocks, dtype=torch.int32)[None],
        len(ids),
    )
    groups = (GroupInputs(positions, meta),)
    return model.decoder.forward(ForwardInputs(torch.tensor(ids), positions, groups, positions), kv)


def forced(directory: Path, texts: list[Text]) -> dict[str, dict[str, float]]:
    """The figures of every variant on given texts."""
    yardstick = load(directory, VARIANTS["float32"])
    wanted = [logits_of(yardstick, text.ids).log_softmax(-1) for text in texts]
    return {
        name: _compared(texts, wanted, load(directory, variant))
        for name, variant in VARIANTS.items()
    }


def _compared(
    texts: list[Text], wanted: list[torch.Tensor], model: LoadedModel
) -> dict[str, float]:
    divergences, agreements, losses = [], [], []
    for text, p in zip(texts, wanted, strict=True):
        q = logits_of(model, text.ids).log_softmax(-1)
        rows = slice(text.start - 1, len(text.ids) - 1)  # a row tells the token behind it
        p, q, following = p[rows].double(), q[rows].double(), torch.tensor(text.ids[text.start :])
        divergences.append((p.exp() * (p - q)).sum(-1))
        agreements.append((p.argmax(-1) == q.argmax(-1)).double())
        losses.append(-q.gather(1, following[:, None])[:, 0])
    divergence = torch.cat(divergences)
    return {
        "tokens": len(divergence),
        "kl_mean": float(f"{divergence.mean().clamp_min(0):.3g}"),
        "kl_p99": float(f"{divergence.quantile(0.99).clamp_min(0):.3g}"),
        "top1_agreement": round(float(torch.cat(agreements).mean()), 4),
        "perplexity": round(float(torch.cat(losses).mean().exp()), 4),
    }


def greedy(directory: Path, variant: Variant, prompts: list[list[int]], sampling: Sampling):
    """(token ids, text, finish reason) of each prompt, as the engine makes them."""
    engine = InProcessEngine.start(
        EngineSpec(model=variant.model(directory), device="cpu", impl="cpu")
    )
    engine.submit([Request(i, "", ids, sampling) for i, ids in enumerate(prompts)])
    results = {}
    while len(results) < len(prompts):
        update = engine.poll(60.0)
        assert not update.failures
        results |= {result.request_id: result.completions[0] for result in update.results}
    return [results[i] for i in range(len(prompts))]


def agreement(found: list[tuple[int, ...]], wanted: list[tuple[int, ...]]) -> dict[str, float]:
    """Continuations that agree to the end, and the mean share up to the first other token."""
    shares = []
    for ids, others in zip(found, wanted, strict=True):
        pairs = enumerate(zip(ids, others, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), min(len(ids), len(others)))
        shares.append(same / len(others))
    return {
        "greedy_equal": round(sum(share == 1 for share in shares) / len(shares), 4),
        "greedy_agreed_share": round(sum(shares) / len(shares), 4),
    }


def stories() -> dict[str, dict[str, float]]:
    lines = (STORIES / "golden_greedy.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    prompts = [row["prompt_token_ids"] for row in rows]
    golden = [tuple(row["output_token_ids"]) for row in rows]
    texts = [Text(row["prompt_token_ids"] + row["output_token_ids"]) for row in rows]
    found = forced(STORIES, texts)
    sampling = Sampling(max_tokens=64, ignore_eos=True, repetition_stop=False)
    for name, variant in _engines():
        made = [each.token_ids for each in greedy(STORIES, variant, prompts, sampling)]
        found[name] |= agreement(made, golden)
    return found


def real_documents() -> dict[str, dict[str, float]]:
    """stories260K on English prose that is none of its: what int8 does where a model is unsure."""
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    rows = pq.read_table(DOCUMENTS, columns=["text", "lang"]).to_pylist()
    texts = [row["text"] for row in rows if row["lang"] == "en"][:NUM_DOCUMENTS]
    cut = {"truncation": True, "max_length": DOCUMENT_LEN}
    return forced(STORIES, [Text(tokenizer(text, **cut).input_ids) for text in texts])


def embedded(num_rows: int) -> dict[str, dict[str, float]]:
    sys.path.insert(0, str(ROOT / "sample_data"))
    import evaluate  # the model's own evaluation: scripts beside it, no package
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    cases = evaluate.draw_cases(2026, num_rows)
    prompts = [
        tokenizer(
            tokenizer.apply_chat_template(c.messages, tokenize=False, add_generation_prompt=True),
            add_special_tokens=False,
        ).input_ids
        for c in cases
    ]
    answers = [tokenizer(c.reference, add_special_tokens=False).input_ids for c in cases]
    texts = [Text(p + a, len(p)) for p, a in zip(prompts, answers, strict=True)]
    found = forced(EMBEDDED, texts)
    wanted: list[tuple[int, ...]] = []
    for name, variant in _engines():
        made = greedy(EMBEDDED, variant, prompts, Sampling(max_tokens=240, repetition_stop=False))
        wanted = wanted or [each.token_ids for each in made]
        verdicts = [
            evaluate.judge(case, each.text.strip(), ended=each.finish_reason == "stop")
            for case, each in zip(cases, made, strict=True)
        ]
        found[name] |= agreement([each.token_ids for each in made], wanted)
        found[name]["checks_passed"] = round(sum(v["passed"] for v in verdicts) / len(verdicts), 4)
    return found


def _engines() -> Iterator[tuple[str, Variant]]:
    """The variants that a manifest can ask for; float32 first."""
    return ((name, variant) for name, variant in VARIANTS.items() if not variant.plain_head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100, help="held-out rows of the embedded model")
    parser.add_argument("--out", type=Path, help="write the JSON document here too")
    options = parser.parse_args()
    models = {"embedded": embedded(options.rows)}
    if STORIES.is_dir():
        models["stories260K"] = stories()
        models["stories260K, real documents"] = real_documents()
    else:
        print("stories260K left out: the shared folder is not beside the checkout")
    for model, variants in models.items():
        for name, figures in variants.items():
            print(f"{model}, {name}: {', '.join(f'{k} {v}' for k, v in figures.items())}")
    document = {
        "benchmark": "quality_int8",
        "commit": short_commit(),
        "device": device_name(),
        "versions": {"python": platform.python_version(), "torch": metadata.version("torch")},
        "models": models,
    }
    if options.out is not None:
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
