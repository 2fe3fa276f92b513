"""Turns items into prompts (templates, stages) and completions into artifacts (parsing, checks)."""

from thothy_batch.kinds.evaluation import ParsedOutput, evaluate
from thothy_batch.kinds.kind import Kind, Output, ParamSpec, Stage
from thothy_batch.kinds.languages import language_name
from thothy_batch.kinds.loading import builtin_kinds, load_kind
from thothy_batch.kinds.prompt import Prompt, render
from thothy_batch.kinds.resolve import (
    InvalidValueError,
    resolve_languages,
    resolve_params,
    resolve_samples,
    resolve_sampling,
)
from thothy_batch.kinds.templates import TemplateProblem

__all__ = [
    "ParsedOutput",
    "InvalidValueError",
    "Kind",
    "Output",
    "ParamSpec",
    "Prompt",
    "Stage",
    "TemplateProblem",
    "builtin_kinds",
    "evaluate",
    "language_name",
    "load_kind",
    "render",
    "resolve_languages",
    "resolve_params",
    "resolve_samples",
    "resolve_sampling",
]
