"""An item's values to the messages of one stage."""

from collections.abc import Mapping
from dataclasses import dataclass

from thothy_batch.kinds.kind import Kind
from thothy_batch.kinds.templates import render_template


@dataclass(frozen=True, slots=True)
class Prompt:
    """The messages of one request, in the form that chat templates take."""

    messages: list[dict[str, str]]
    num_document_chars: int = 0  # the user's message begins with that much document


def render(kind: Kind, stage_index: int, variables: Mapping[str, object]) -> Prompt:
    """The system message (left out when empty) and the user's: document, then instruction.

    `variables`: the declared fields, `params` (resolved), and what the entry brings: `target_lang`,
    `items` (list of dicts), `previous` (the text of the stage before). Optional fields may be left
    out. Raises TemplateProblem (template_error).
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
    """The variables with None for optional fields that the item (or an item of a group) lacks."""
    if not kind.optional_fields:
        return dict(variables)
    nothing = dict.fromkeys(kind.optional_fields)
    if kind.entry != "group":
        return {**nothing, **variables}
    items = variables.get("items")
    assert isinstance(items, list)
    return {**variables, "items": [{**nothing, **item} for item in items]}
