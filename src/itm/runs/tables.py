"""Print results as tables for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

RECALLS = [f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]


def rows_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format a table as text; numbers are right-aligned."""
    table = Table(title=title, title_justify="left")
    numeric = [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(columns))]
    for name, number in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(f"{x:.1f}" if isinstance(x, float) else str(x) for x in row))
    console = Console(width=160, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()


def metric_table(report: dict[str, dict[str, float]], title: str) -> str:
    """Format several matchers side by side; further metrics follow below the recalls."""
    first = [*RECALLS, "rsum"]
    rows = [[name, *(values[key] for key in first)] for name, values in report.items()]
    text = rows_table(title, ["matcher", *first], rows)
    names = list(next(iter(report.values())))
    rest = [key for key in names if key not in first]
    more = [[key, *(values[key] for values in report.values())] for key in rest]
    return f"{text}\n{rows_table('', ['metric', *report], more)}"


def result_table(results: dict[str, Any], title: str) -> str:
    """Format one run: recalls, rsum and ranks of its validation and test splits."""
    columns = ["split", "i2t R@1", "R@5", "R@10", "t2i R@1", "R@5", "R@10", "rsum", "medr", "meanr"]
    rows = []
    for stage in ("val", "test"):
        if f"{stage}/{RECALLS[0]}" in results:
            get = {name: float(results[f"{stage}/{name}"]) for name in [*RECALLS, "rsum"]}
            ranks = [
                " / ".join(f"{results[f'{stage}/{way}_{kind}']:.0f}" for way in ("i2t", "t2i"))
                for kind in ("medr", "meanr")
            ]
            rows.append([stage, *(get[name] for name in RECALLS), get["rsum"], *ranks])
    return rows_table(title, columns, rows)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Format a table as GitHub Markdown."""
    cell = lambda x: f"{x:.1f}" if isinstance(x, float) else str(x)  # noqa: E731
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell(x) for x in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
