"""Format a report as Markdown, LaTeX, CSV, JSON and text; HTML is in `itm.visual.report_page`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from itm.runs.escape import for_markdown, printable
from itm.runs.groups import Groups, averaged, deviation_of, validation_in_words
from itm.runs.history import COSTS, Run
from itm.runs.report import Section, count, shown_metrics
from itm.runs.tables import csv_table, latex_table, markdown_table, rows_table

FORMATS = ("text", "markdown", "csv", "latex", "json")  # of `format=`
Tests = Mapping[str, Groups]  # name of a test split -> its runs in groups


def format_results(tests: Tests, kind: str) -> str:
    """Format the results of all groups, best validation first.

    Args:
        tests: the groups on each test split.
        kind: one of `FORMATS`. In LaTeX the best mean of each column is bold; JSON has two digits
            after the point; the others have one.
    """
    if kind == "json":
        return json.dumps(results_data(tests), indent=1, ensure_ascii=False) + "\n"
    if kind == "csv":
        every = [metric for groups in tests.values() for metric in shown_metrics(groups)]
        metrics = list(dict.fromkeys(every))
        rows = [[*row, test] for test, groups in tests.items() for row in _rows(groups, metrics)]
        return csv_table([*_columns(metrics), "measured on"], rows)
    parts = []
    for test, groups in tests.items():
        metrics = shown_metrics(groups)
        columns, rows = _columns(metrics), _rows(groups, metrics)
        if kind != "text":  # whose table has heads of its own
            columns = [_readable(name) for name in columns]
        if kind == "latex":
            head = f"% {printable(test)}; needs \\usepackage{{booktabs}}\n"
            parts.append(head + latex_table(columns, rows, _best(groups, metrics)))
        elif kind == "markdown":
            parts.append(f"{for_markdown(test)}\n\n{_escaped_table(columns, rows)}")
        else:
            parts.append(rows_table(test, columns, rows) + "\n")
    return "\n".join(parts)


def _columns(metrics: Sequence[str]) -> list[str]:
    return ["run", "runs", "val rsum", *metrics, "rsum"]


def _readable(column: str) -> str:
    """Write a recall such as i2t_r1 as i2t R@1."""
    return re.sub(r"^(i2t|t2i)_r(\d+)$", r"\1 R@\2", column)


def _rows(groups: Groups, metrics: Sequence[str]) -> list[list[Any]]:
    return [
        [
            name,
            count(group),
            validation_in_words(group),
            *(averaged([run.metrics.get(key) for run in group]) for key in (*metrics, "rsum")),
        ]
        for name, group in groups.items()
    ]


def _best(groups: Groups, metrics: Sequence[str]) -> set[tuple[int, int]]:
    """Find the cells with the best displayed mean of each column; several if they tie.

    A single row is not compared with anything, so it has none. Means over some of the runs and
    validations of a part of the split are not compared, either.
    """
    if len(groups) < 2:
        return set()
    columns = {2: [_whole_mean([run.choice for run in group]) for group in groups.values()]}
    for column, metric in enumerate((*metrics, "rsum"), 3):
        columns[column] = [
            _whole_mean([run.metrics.get(metric) for run in group]) for group in groups.values()
        ]
    best = set()
    for column, values in columns.items():
        shown = [round(value, 1) for value in values]
        known = [value for value in shown if value == value]
        best |= {(i, column) for i, value in enumerate(shown) if known and value == max(known)}
    return best


def _whole_mean(values: Sequence[float | None]) -> float:
    """Average numbers; NaN if one is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else float("nan")


def results_data(tests: Tests) -> list[dict[str, Any]]:
    """Turn the results into plain data, rounded to two digits after the point."""
    return [
        {
            "name": name,
            "measured_on": test,
            "runs": len(group),
            "seeds": [run.seed for run in group],
            "val_rsum": _numbers([run.validation for run in group]),
            **({"val_rsum_of_a_part": True} if "(part)" in validation_in_words(group) else {}),
            "test": {
                key: _numbers([run.metrics.get(key) for run in group])
                for key in dict.fromkeys(key for run in group for key in run.metrics)
            },
            **{key: _numbers([run.costs.get(key) for run in group]) for key in COSTS},
            "commands": [run.record.get("command") for run in group],
            "folders": [str(run.folder) for run in group],
        }
        for test, groups in tests.items()
        for name, group in groups.items()
    ]


def _numbers(values: Sequence[float | None]) -> dict[str, float] | None:
    found = [value for value in values if value is not None]
    if not found:
        return None
    numbers = {"mean": round(sum(found) / len(found), 2)}
    numbers |= {"deviation": round(deviation_of(found), 2)} if len(found) > 1 else {}
    return numbers | ({"known": len(found)} if len(found) < len(values) else {})


def markdown(title: str, sections: Sequence[Section]) -> str:
    """Format a report as GitHub Markdown; its pictures are in the same folder."""
    parts = [f"# {for_markdown(title)}\n"]
    for section in sections:
        parts.append(f"## {for_markdown(section.title)}\n")
        if section.text:
            parts.append(f"{for_markdown(section.text)}\n")
        if section.rows:
            parts.append(_escaped_table(section.columns, section.rows))
        if section.picture:
            parts.append(f"![{for_markdown(section.title)}]({section.picture.name})\n")
    return "\n".join(parts)


def _escaped_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return markdown_table(
        [for_markdown(name) for name in columns],
        [[x if isinstance(x, float) else for_markdown(x) for x in row] for row in rows],
    )


def title_of(places: Sequence[str], runs: Sequence[Run]) -> str:
    """Name a report by the folders that were searched."""
    return f"{', '.join(places)}: {len(runs)} {'run' if len(runs) == 1 else 'runs'}"
