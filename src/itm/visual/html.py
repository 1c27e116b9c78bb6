"""HTML pages from the templates beside this file, each one self-contained file.

Jinja2 escapes every value that a template shows, so captions, file names and queries show as the
text they are. Pages hold no scripts, load nothing, and tell the browser to refuse both
(`templates/layout.html`); they are light or dark as the reader's system is (`style.css`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined


class Table(NamedTuple):
    """What the macro `table` shows; columns of numbers are right-aligned."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers only."""
        return [
            bool(self.rows) and all(isinstance(row[i], int | float) for row in self.rows)
            for i in range(len(self.columns))
        ]


def four_digits(value: Any) -> Any:
    """Shorten floats to four significant digits; leave all else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else value


TEMPLATES = Environment(
    loader=PackageLoader("itm.visual"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=four_digits,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, data: Mapping[str, Any]) -> str:
    """Fill a template with plain data.

    Args:
        template: name of a file in `templates/`.
        data: its variables; all values but `markupsafe.Markup` are escaped.

    Raises:
        jinja2.UndefinedError: a variable that the template shows is missing.
    """
    return TEMPLATES.get_template(template).render(data)
