"""Turns items into prompts (templates, stages) and completions into artifacts (parsing, checks)."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.kinds.evaluation import ParsedOutput, evaluate
    from thothy_batch.kinds.kind import Kind
    from thothy_batch.kinds.loading import load_kind
    from thothy_batch.kinds.prompt import render
    from thothy_batch.kinds.resolve import (
        InvalidValueError,
        resolve_languages,
        resolve_params,
        resolve_samples,
        resolve_sampling,
    )
    from thothy_batch.kinds.templates import TemplateProblem

__all__ = [
    "InvalidValueError",
    "Kind",
    "ParsedOutput",
    "TemplateProblem",
    "evaluate",
    "load_kind",
    "render",
    "resolve_languages",
    "resolve_params",
    "resolve_samples",
    "resolve_sampling",
]

__getattr__ = lazy_face(
    __name__,
    {
        "evaluation": (
            "ParsedOutput",
            "evaluate",
        ),
        "kind": ("Kind",),
        "loading": ("load_kind",),
        "prompt": ("render",),
        "resolve": (
            "InvalidValueError",
            "resolve_languages",
            "resolve_params",
            "resolve_samples",
            "resolve_sampling",
        ),
        "templates": ("TemplateProblem",),
    },
)
