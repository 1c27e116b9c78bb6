"""Render self-contained HTML pages from the templates in this package.

Jinja2 escapes every value in a template, so captions, file names and queries appear literally.
Pages contain no scripts, load nothing, and tell the browser to block both
(`templates/layout.html`); they follow the system's light or dark theme (`style.css`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all but tab and newline


class Table(NamedTuple):
    """Input of the macro `table`; columns of numbers are right-aligned."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @property
    def numeric(self) -> list[bool]:
        """Tell for each column whether it holds only numbers."""
        return [
            bool(self.rows) and all(isinstance(row[i], int | float) for row in self.rows)
            for i in range(len(self.columns))
        ]


def shown(value: Any) -> Any:
    """Shorten floats to four significant digits; replace control characters and surrogates.

    File names that are not UTF-8 contain lone surrogates, which cannot be written as UTF-8.
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and not isinstance(value, Markup):
        return CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)
    return value


TEMPLATES = Environment(
    loader=PackageLoader("itm.visual"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=shown,
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
