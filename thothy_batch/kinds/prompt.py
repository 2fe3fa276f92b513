"""Renders an item's values into the messages of one stage."""

from collections.abc import Mapping
from dataclasses import dataclass

from thothy_batch.kinds.kind import Kind
from thothy_batch.kinds.templates import render_template


@dataclass(frozen=True, slots=True)
class Prompt:
    """The messages of one request, in the form of chat templates."""

    messages: list[dict[str, str]]
    num_document_chars: int = 0  # characters of document at the start of the user message


def render(kind: Kind, stage_index: int, variables: Mapping[str, object]) -> Prompt:
    """Render the system message (omitted if empty) and the user message: document, instruction.

    `variables`: the declared fields, the resolved `params` and, by entry, `target_lang`, `items`
    (list of dicts) and `previous` (the text of the preceding stage). Optional fields may be
    missing. Raises TemplateProblem (template_error).
    """
    assert not kind.raw, "a raw kind has no templates: its prompt is what the row holds"
    stage = kind.stages[stage_index]
    values = with_optional(kind, variables)
    system = render_template(kind.system, values, what="system")
    document = render_template(kind.document, values, what="document")
    instruction = render_template(stage.instruction, values, what=f"stage {stage.name}")
    user = "\n\n".join(part for part in (document, instruction) if part)
    messages = [{"role": "system", "content": system}] if system else []
    return Prompt([*messages, {"role": "user", "content": user}], len(document))


def with_optional(kind: Kind, variables: Mapping[str, object]) -> dict[str, object]:
    """Return the variables with None for missing optional fields, in group items too."""
    if not kind.optional_fields:
        return dict(variables)
    nothing = dict.fromkeys(kind.optional_fields)
    if kind.entry != "group":
        return {**nothing, **variables}
    items = variables.get("items")
    assert isinstance(items, list)
    return {**variables, "items": [{**nothing, **item} for item in items]}
