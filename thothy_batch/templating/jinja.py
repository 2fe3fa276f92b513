"""The names of Jinja2 that readers of templates use, so that jinja2 has one importing package."""

from jinja2 import (
    StrictUndefined,
    Template,
    TemplateAssertionError,
    TemplateError,
    TemplateRuntimeError,
    TemplateSyntaxError,
    Undefined,
    meta,
    nodes,
)
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls
from jinja2.parser import Parser
from jinja2.utils import Namespace

__all__ = [
    "Extension",
    "LoopControls",
    "Namespace",
    "Parser",
    "SecurityError",
    "StrictUndefined",
    "Template",
    "TemplateAssertionError",
    "TemplateError",
    "TemplateRuntimeError",
    "TemplateSyntaxError",
    "Undefined",
    "meta",
    "nodes",
]
