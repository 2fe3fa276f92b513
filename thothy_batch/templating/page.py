"""Templates of the program's own HTML pages: every value is escaped, a missing one is an error."""

from jinja2 import Environment, StrictUndefined, Template


def page_template(source: str) -> Template:
    """Compiles the text of a page's template."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(source)
