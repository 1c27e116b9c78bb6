"""Format results as tables for the terminal, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from itm.metrics.ranking import RECALLS
from itm.runs.escape import for_csv, for_latex, printable

# On the terminal; the six columns stand side by side.
HEADS = dict(zip(RECALLS, ("i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10"), strict=True))
RANKS = tuple(f"{way}_{kind}" for way in ("i2t", "t2i") for kind in ("medr", "meanr"))
# Or nothing.
NUMBER = r"(failed|-?[\d.,]+( [±/] [\d.,]+)?( \(\d+ of \d+\))?( \(part\))?)?"
WIDEST = 100  # characters of a column on the terminal; files hold the whole text

Rows = Sequence[Sequence[Any]]


def rows_table(title: str, columns: Sequence[str], rows: Rows) -> str:
    """Format a table for the terminal; numbers are right-aligned, and recalls have short heads.

    Titles, names and cells appear literally; markup and control characters have no effect.
    """
    table = Table()
    for i, name in enumerate(columns):
        justify: Any = "right" if all(_is_number(row[i]) for row in rows) else "left"
        table.add_column(
            Text(printable(_head(name))), justify=justify, no_wrap=True, max_width=WIDEST
        )
    for row in rows:
        table.add_row(*(Text(printable(cell_text(x))) for x in row))
    # Wide enough for every column: a long cell must not shorten the others.
    console = Console(width=WIDEST * len(columns), force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().rstrip().splitlines()]
    return "\n".join([printable(title), *lines] if title else lines)  # Table would wrap its title


def _head(column: str) -> str:
    """Shorten the name of a recall or an rsum, such as test/i2t_r1; other names stay."""
    stage, _, metric = column.rpartition("/")
    if stage not in ("", "val", "test"):
        return column
    return f"{stage} rsum" if stage and metric == "rsum" else HEADS.get(metric, column)


def _is_number(cell: Any) -> bool:
    """Tell whether a cell is empty or a number, also as a text such as "1.5 ± 0.2"."""
    return isinstance(cell, int | float) or re.fullmatch(NUMBER, str(cell)) is not None


def metric_table(report: dict[str, dict[str, float]], title: str) -> str:
    """Format several matchers side by side; further metrics follow below the recalls."""
    first = [*RECALLS, "rsum"]
    rows = [[name, *(values[key] for key in first)] for name, values in report.items()]
    text = rows_table(title, ["matcher", *first], rows)
    names = list(next(iter(report.values())))
    rest = [key for key in names if key not in first]
    more = [[key, *(values[key] for values in report.values())] for key in rest]
    return f"{text}\n{rows_table('', ['metric', *report], more)}" if more else text


def run_table(results: dict[str, Any], title: str, partial: Sequence[str] = ()) -> str:
    """Format one run: recalls, rsum and ranks of its validation and test splits.

    Args:
        results: metrics such as `val/rsum`; missing ones are blank, and a split without rsum has no
            row.
        title: name of the run.
        partial: "val", "test": splits of which only a part was scored.

    Returns:
        The table; "" without rows.
    """
    columns = [*HEADS.values(), "rsum", "medr", "meanr"]
    rows = []
    for stage in ("val", "test"):
        found = {key: results.get(f"{stage}/{key}", "") for key in (*RECALLS, "rsum", *RANKS)}
        if found["rsum"] != "":
            ranks = [_both(found, "medr", 0), _both(found, "meanr", 1)]
            name = f"{stage} (part)" if stage in partial else stage
            rows.append([name, *(found[key] for key in RECALLS), found["rsum"], *ranks])
    return rows_table(title, ["split", *columns], rows) if rows else ""


def _both(found: Mapping[str, Any], kind: str, digits: int) -> str:
    """Format a statistic of the ranks in both directions, such as "3 / 5"; "" if it is unknown."""
    values = [found[f"{way}_{kind}"] for way in ("i2t", "t2i")]
    return "" if values[0] == "" else " / ".join(f"{value:.{digits}f}" for value in values)


def markdown_table(columns: Sequence[str], rows: Rows) -> str:
    """Format a table as GitHub Markdown; names and cells are Markdown already."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(map(cell_text, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def csv_table(columns: Sequence[str], rows: Rows) -> str:
    """Format a table as CSV; cells that look like formulas are quoted."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [[*map(for_csv, row)] for row in (columns, *rows)]
    )
    return text.getvalue()


def latex_table(columns: Sequence[str], rows: Rows, bold: set[tuple[int, int]]) -> str:
    r"""Format a table as LaTeX, for `\usepackage{booktabs}`.

    Args:
        columns: names.
        rows: cells.
        bold: (row, column) of the cells in bold, both from 0.
    """
    lines = [r"\begin{tabular}{l" + "r" * (len(columns) - 1) + "}", r"\toprule"]
    lines += [" & ".join(map(for_latex, columns)) + r" \\", r"\midrule"]
    for i, row in enumerate(rows):
        cells = [for_latex(cell_text(x)) for x in row]
        cells = [rf"\textbf{{{x}}}" if (i, j) in bold else x for j, x in enumerate(cells)]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def cell_text(value: Any) -> str:
    """Format a cell: floats with one digit after the point."""
    return f"{value:.1f}" if isinstance(value, float) else str(value)
