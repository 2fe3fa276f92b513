"""Reads YAML files into validated settings and reports every problem with its line.

The only package that imports pydantic; it does not know what the settings mean.
"""

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from thothy_batch.yaml_source.checking import StrictModel, validate
from thothy_batch.yaml_source.located import Located
from thothy_batch.yaml_source.reading import load_yaml, parse_yaml
from thothy_batch.yaml_source.variables import Variables, is_variable_name, value_fault
from thothy_batch.yaml_source.wording import did_you_mean

__all__ = [
    "BeforeValidator",
    "Discriminator",
    "Field",
    "Located",
    "PrivateAttr",
    "StrictModel",
    "Tag",
    "Variables",
    "WithJsonSchema",
    "did_you_mean",
    "field_validator",
    "is_variable_name",
    "load_yaml",
    "model_validator",
    "parse_yaml",
    "validate",
    "value_fault",
]
