"""The sections of a report over many runs: tables of results and differences, and Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from itm.metrics.significance import compare, holm, interval, same_queries
from itm.runs.groups import deviation, mean
from itm.runs.history import Run
from itm.runs.tables import RECALLS, markdown_table

NCS = ("i2t_ncs_10", "t2i_ncs_10")  # shown beside the recalls where runs have them
NOTE = (
    "± is the standard deviation over seeds. The interval is that of rsum on other test images of "
    "the same kind (95 %, bootstrap over images with all their captions)."
)

Groups = Mapping[str, Sequence[Run]]  # what sets runs apart -> its runs, one a seed


class Section(NamedTuple):
    """A part of a report: a heading, and below it text, a table and a picture, where given."""

    title: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    picture: Path | None = None


def results(groups: Groups, test: str, samples: int) -> Section:
    """Tabulate all settings in the order of `groups`.

    Args:
        groups: the runs on one test.
        test: what it was.
        samples: of the bootstrap.
    """
    every = [run for group in groups.values() for run in group]
    metrics = [name for name in (*RECALLS, *NCS) if any(name in run.metrics for run in every)]
    rows = []
    for name, group in groups.items():
        kept = [run.ranks for run in group if run.ranks]
        around = ""
        if kept and all(same_queries(kept[0], ranks) for ranks in kept):
            around = "{:.1f} to {:.1f}".format(*interval(kept, samples))
        numbers = [spread(group, metric) for metric in metrics]
        rows.append([name, len(group), spread(group, "rsum"), around, *numbers])
    columns = ["runs equal up to the seed", "seeds", "rsum", "95 % interval", *metrics]
    return Section(f"Results on {test}", NOTE, columns, rows)


def spread(group: Sequence[Run], metric: str) -> str:
    """Format mean and deviation over seeds, such as "410.2 ± 1.3"."""
    value, around = mean(group, metric), deviation(group, metric)
    if np.isnan(value):
        return ""
    return f"{value:.1f}" if np.isnan(around) else f"{value:.1f} ± {around:.1f}"


def differences(groups: Groups, samples: int) -> Section | None:
    """Compare every pair of settings: difference of rsum, its interval, its corrected p value.

    Returns:
        The section; None where fewer than two settings kept the ranks of all their runs.
    """
    ranks = {
        name: [run.ranks for run in group if run.ranks]
        for name, group in groups.items()
        if all(run.ranks for run in group)
    }
    names = list(ranks)
    if len(names) < 2:
        return None
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    pairs = [(a, b) for a, b in pairs if same_queries(ranks[a][0], ranks[b][0])]
    found = [compare(ranks[a], ranks[b], samples) for a, b in pairs]
    corrected = holm([difference.p for difference in found])
    rows = [
        [a, b, f"{d.value:+.1f}", f"{d.low:+.1f} to {d.high:+.1f}", f"{p:.3f}", verdict(p)]
        for (a, b), d, p in zip(pairs, found, corrected, strict=True)
    ]
    text = (
        "rsum of the first minus rsum of the second on the same resampled test images "
        f"({samples} samples). p is corrected for the number of pairs (Holm). The seeds of one "
        "setting are averaged, so these intervals leave out the variance of training: see ± above."
    )
    columns = ["first", "second", "rsum", "95 % interval", "p", "5 % level"]
    return Section("Differences", text, columns, rows)


def verdict(p: float) -> str:
    """Say whether a difference is significant at the 5 % level."""
    return "different" if p < 0.05 else "not significant"


def every_run(runs: Sequence[Run]) -> Section:
    """List every run with its folder, best rsum first."""
    rows = [
        [r.name, "" if r.seed is None else str(r.seed), f"{r.rsum:.1f}", r.test, str(r.folder)]
        for r in sorted(runs, key=lambda r: -r.rsum)
    ]
    return Section("All runs", "", ["run", "seed", "rsum", "measured on", "folder"], rows)


def markdown(title: str, sections: Sequence[Section]) -> str:
    """Write a report as GitHub Markdown; its pictures lie beside it."""
    parts = [f"# {title}\n"]
    for section in sections:
        parts.append(f"## {section.title}\n")
        if section.text:
            parts.append(f"{section.text}\n")
        if section.columns:
            safe = [[str(cell).replace("|", r"\|") for cell in row] for row in section.rows]
            parts.append(markdown_table(section.columns, safe))
        if section.picture:
            parts.append(f"![{section.title}]({section.picture.name})\n")
    return "\n".join(parts)
