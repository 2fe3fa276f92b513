"""The Jinja2 sandbox and its limits on work and memory; the only importer of jinja2."""

from thothy_batch.templating.jinja import (
    Extension,
    LoopControls,
    Namespace,
    Parser,
    SecurityError,
    TemplateError,
    meta,
    nodes,
)
from thothy_batch.templating.limits import bounded_filter
from thothy_batch.templating.page import page_template
from thothy_batch.templating.sandbox import BoundedSandbox

__all__ = [
    "BoundedSandbox",
    "Extension",
    "LoopControls",
    "Namespace",
    "Parser",
    "SecurityError",
    "TemplateError",
    "bounded_filter",
    "jinja",
    "meta",
    "nodes",
    "page_template",
]
