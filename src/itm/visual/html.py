"""Render self-contained HTML pages from the templates in this package.

Jinja2 escapes every value in a template, so captions, file names and queries appear literally.
Pages contain no scripts, load nothing, and tell the browser to block both
(`templates/layout.html`); they follow the system's light or dark theme (`style.css`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined


class Table(NamedTuple):
    """Input of the macro `table`; columns of numbers are right-aligned."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds only numbers."""
        return [
            bool(self.rows) and all(isinstance(row[i], int | float) for row in self.rows)
            for i in range(len(self.columns))
        ]


def four_digits(value: Any) -> Any:
    """Shorten floats to four significant digits; leave other values unchanged."""
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
        data: variables of the template; all values except `markupsafe.Markup` are escaped.

    Raises:
        jinja2.UndefinedError: a variable of the template is missing.
    """
    return TEMPLATES.get_template(template).render(data)
