"""Measures the embedded model on held-out rows and writes the model card's figures.

    python sample_data/evaluate.py [--card]

Names come from syllable pairs that training never sees (`corpus.is_held_out`). A row passes when
its artifact is not empty, ended by itself, carries every name and figure that the kind asks for,
invents no figure, and keeps to the kind's form. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import phrases
import prompts
import targets
from corpus import Item, draw_group

CHECKS = ("non_empty", "ended", "names", "figures", "none_invented", "form", "passed")
SECTIONS = ("## Overview", "## Findings", "## Recommendation")
UNITS = "|".join(unit for _, unit, *_ in phrases.FACTS.values())
FIGURE = re.compile(rf"\d+(?:\.\d+)? (?:{UNITS})\b")


@dataclass(frozen=True)
class Case:
    """One held-out row: what is asked, and the reference built from the same values."""

    kind: str
    items: tuple[Item, ...]
    values: dict[str, Any]
    reference: str

    @property
    def max_tokens(self) -> int:
        """The kind's own limit, as the product would apply it."""
        return prompts.sampling(self.kind)["max_tokens"]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as the product renders it."""
        return prompts.render(self.kind, [item.text for item in self.items], **self.values)


def draw_cases(seed: int, num_rows: int) -> list[Case]:
    """Held-out rows of the four kinds in turn, texts of 20 to 400 words."""
    rng = random.Random(f"evaluate-{seed}")
    cases = []
    for index in range(num_rows):
        kind = ("summary", "hook", "translation", "report")[index % 4]
        num_items = 1 + (index // 4) % 3 if kind == "report" else 1
        longest = 60 if kind == "translation" else 400 if num_items == 1 else 180
        num_words = round(20 * (longest / 20) ** rng.random())
        items = tuple(draw_group(rng, num_words, num_items, held_out=True))
        cases.append(_case(rng, kind, items))
    return cases


def _case(rng: random.Random, kind: str, items: tuple[Item, ...]) -> Case:
    item = items[0]
    if kind == "summary":
        max_words = rng.choice((60, 60, 40, 20))
        return Case(kind, items, {"max_words": max_words}, targets.summary(item, max_words))
    if kind == "hook":
        return Case(kind, items, {"max_words": 16}, targets.hook(rng, item, 16))
    if kind == "translation":
        lang = rng.choice(("de", "es"))
        return Case(kind, items, {"target_lang": lang}, item.texts[lang])
    return Case(kind, items, {}, targets.report(list(items)))


def generate(model: Any, tokenizer: Any, cases: list[Case], temperature: float) -> list[list[int]]:
    """Completions of one kind, in batches of like length; greedy at temperature 0."""
    texts = [
        tokenizer.apply_chat_template(case.messages, tokenize=False, add_generation_prompt=True)
        for case in cases
    ]
    encoded = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    order = sorted(range(len(cases)), key=lambda index: len(encoded[index]))
    completions: list[list[int]] = [[] for _ in cases]
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {}
    for start in range(0, len(order), 10):
        chosen = order[start : start + 10]
        batch = tokenizer.pad(
            {"input_ids": [encoded[i] for i in chosen]}, padding_side="left", return_tensors="pt"
        )
        out = model.generate(**batch, max_new_tokens=cases[0].max_tokens, **sampling)
        for index, row in zip(chosen, out[:, batch.input_ids.shape[1] :].tolist(), strict=True):
            completions[index] = row
    return completions


def _form_holds(case: Case, text: str) -> bool:
    """The kind's own rules: word limit, one line, sections."""
    if case.kind == "summary":
        return len(text.split()) <= case.values["max_words"]
    if case.kind == "hook":
        return "\n" not in text and len(text.split()) <= case.values["max_words"]
    if case.kind == "report":
        return all(f"{section}\n" in text for section in SECTIONS)
    return True


def _figures_hold(case: Case, text: str) -> bool:
    """Every figure that the kind asks for, in a report on the line of its own subject."""
    if case.kind == "hook":
        return any(figure in text for figure in case.items[0].figures)
    if case.kind != "report":
        wanted = case.items[0].figures
        if case.kind == "summary":
            wanted = wanted[: targets.num_summary_figures(case.values["max_words"])]
        return all(figure in text for figure in wanted)
    findings = [line for line in text.splitlines() if line.startswith("- ")]
    return len(findings) == len(case.items) and all(
        figure in line
        for item, line in zip(case.items, findings, strict=True)
        for figure in item.figures
    )


def judge(case: Case, text: str, *, ended: bool) -> dict[str, bool]:
    """The checks of one artifact."""
    known = {figure for item in case.items for figure in item.figures}
    verdict = {
        "non_empty": bool(text.strip()),
        "ended": ended,
        "names": all(item.name in text for item in case.items),
        "figures": _figures_hold(case, text),
        "none_invented": set(FIGURE.findall(text)) <= known,
        "form": _form_holds(case, text),
    }
    return verdict | {"passed": all(verdict.values()), "exact": text == case.reference}


def evaluate(folder: Path, seed: int, num_rows: int, show: int) -> dict[str, dict[str, float]]:
    """Shares per kind; prints the first `show` failures of each kind."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    stops = set(model.generation_config.eos_token_id)
    torch.manual_seed(seed)
    cases = draw_cases(seed, num_rows)
    shares: dict[str, dict[str, float]] = {}
    every: list[dict[str, bool]] = []
    for kind in ("summary", "hook", "translation", "report"):
        own = [case for case in cases if case.kind == kind]
        temperature = prompts.sampling(kind)["temperature"]
        verdicts = []
        for case, ids in zip(own, generate(model, tokenizer, own, temperature), strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True).strip()
            verdicts.append(judge(case, text, ended=bool(stops & set(ids))))
            if not verdicts[-1]["passed"] and sum(not v["passed"] for v in verdicts) <= show:
                print(f"--- {kind}\n{text}\n+++ reference\n{case.reference}", flush=True)
        shares[kind] = _shares(verdicts)
        every += verdicts
    return shares | {"all": _shares(every)}


def _shares(verdicts: list[dict[str, bool]]) -> dict[str, float]:
    names = (*CHECKS, "exact")
    shares = {name: sum(v[name] for v in verdicts) / len(verdicts) for name in names}
    return {"rows": len(verdicts)} | {name: round(share, 4) for name, share in shares.items()}


def table(shares: dict[str, dict[str, float]]) -> str:
    """The shares as a Markdown table, in per cent."""
    head = f"| kind | rows | {' | '.join((*CHECKS, 'exact'))} |"
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for kind, row in shares.items():
        cells = [f"{100 * row[name]:.1f}" for name in (*CHECKS, "exact")]
        lines.append(f"| {kind} | {row['rows']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Evaluate and print; with --card also write the model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sample_data/model", type=Path)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--show", type=int, default=1, help="failures shown per kind")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--card", action="store_true", help="write README.md beside the weights")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shares = evaluate(args.model, args.seed, args.rows, args.show)
    print(table(shares))
    if args.card:
        import card

        card.write(args.model, table(shares), shares)
    print(json.dumps(shares))


if __name__ == "__main__":
    main()
