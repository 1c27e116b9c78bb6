"""Write the results of runs into Markdown pages, between marks that say which runs to show.

    <!-- table: runs flickr8k/*_triplet_* -->
    <!-- /table -->

The marks stay, what is between them is replaced; marks in code blocks are examples. Words without
"=" are patterns of run folders (pathlib's `match`). A mark shows each run that matches one of its
patterns. A pattern without a run is an error beside one that has runs. Kinds of marks:

- `table: runs PATTERN`: a row per setting, best validation first. With `by=model,data.fraction`
  a row per combination of these settings; the validation chooses among the others. `metrics=a,b`
  names the columns; the default is the recalls.
- `table: differences PATTERN`: the setting with the best validation compared with every other one,
  `within=data.fraction` among those that agree in this setting; `by=` as above.
- `figure: SETTING out=FILE.png PATTERN`: metrics over a setting, with `by=` and `metrics=`.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import PurePath
from typing import NamedTuple

from itm.runs.groups import Groups, group_seeds
from itm.runs.history import Run
from itm.runs.marks import Mark, find_marks
from itm.runs.page_tables import best_of, difference_table, result_table
from itm.runs.run_files import comparable, is_aside

NONE = "No runs yet.\n"
ALONE = "Fewer than two settings have runs to compare.\n"


class Drawing(NamedTuple):
    """A figure of a page: path relative to the page, groups, setting, metrics, digest of these."""

    path: str
    groups: Groups
    setting: str
    metrics: list[str]
    digest: str


def fill(page: str, runs: Sequence[Run], samples: int = 2000) -> str:
    """Return the page with everything between its marks rewritten.

    Args:
        page: Markdown; marks of other forms are left alone.
        runs: all runs that the page may show.
        samples: number of bootstrap samples for differences.

    Raises:
        ValueError: a wrong mark, or runs on different test splits in one table.
    """
    parts, end = [], 0
    for mark in find_marks(page):
        parts += [page[end : mark.place[0]], _content(mark, _groups(mark, runs), samples)]
        end = mark.place[1]
    return "".join([*parts, page[end:]])


def _content(mark: Mark, groups: dict[str, list[Run]], samples: int) -> str:
    """Write what stands between the marks."""
    if mark.what == "figure":
        drawing = _drawing(mark, groups)
        fewer = f"Fewer than two values of {mark.kind} have runs.\n" if groups else NONE
        return _picture(drawing) if drawing else fewer
    if mark.kind == "runs":
        return result_table(groups, mark.names("by"), mark.names("metrics")) if groups else NONE
    shown = best_of(groups, mark.names("by")) if mark.names("by") else groups
    return difference_table(shown, mark.names("within"), samples) or ALONE


def drawings(page: str, runs: Sequence[Run]) -> Iterator[Drawing]:
    """Yield the figures that a page asks for, if there are runs for them."""
    for mark in find_marks(page):
        if mark.what == "figure" and (drawing := _drawing(mark, _groups(mark, runs))):
            yield drawing


def _groups(mark: Mark, runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group the runs that a mark shows."""
    shown = [r for r in runs if any(PurePath(r.folder).match(p) for p in mark.patterns)]
    for pattern in mark.patterns if shown else ():
        if not any(PurePath(run.folder).match(pattern) for run in shown):
            raise ValueError(
                f"{mark.what}: {mark.kind}: no run folder matches {pattern}; correct the pattern, "
                "or take it out until it has runs (options have no blanks: by=model,loss)"
            )
    tests = dict.fromkeys(run.test for run in shown)
    if len(tests) > 1:
        raise ValueError(f"{' '.join(mark.patterns)}: measured on {' and on '.join(tests)}")
    settings = {key for run in shown for key in run.settings}
    asked = [*mark.names("by"), *mark.names("within")]
    _check_known("a setting", asked, settings, shown)
    _check_known("a metric", mark.names("metrics"), {k for r in shown for k in r.metrics}, shown)
    if aside := [name for name in asked if is_aside(name)]:
        raise ValueError(
            f"{aside[0]} in a mark: runs that differ only in it are averaged, so no row has one"
        )
    return group_seeds(shown)


def _check_known(
    what: str, asked: Sequence[str], known: Collection[str], shown: Sequence[Run]
) -> None:
    """Check that at least one of the runs has what a mark names.

    Raises:
        ValueError: none has.
    """
    for name in asked if shown else ():
        if name not in known:
            near = get_close_matches(name, known, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"{name} in a mark is not {what} of the runs that it shows{hint}")


def _drawing(mark: Mark, groups: Mapping[str, list[Run]]) -> Drawing | None:
    """Choose what a figure shows; None for fewer than two values of its setting."""
    if "out" not in mark.options:
        raise ValueError(f"figure: {mark.kind}: give the file to draw, such as out=margins.png")
    groups = best_of(groups, mark.names("by")) if mark.names("by") else groups
    metrics = mark.names("metrics") or ["rsum", "i2t_r1", "t2i_r1"]
    values = {
        comparable(mark.kind, value): value
        for group in groups.values()
        if (value := group[0].settings.get(mark.kind)) is not None
        and any(metric in run.metrics for run in group for metric in metrics)
    }
    for value in values.values():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(
                f"figure: {mark.kind}: its axis needs numbers, and a run has {value!r}; show a "
                f"table instead: table: runs by={mark.kind}"
            )
    if len(values) < 2:
        return None
    points = [
        [name, run.settings.get(mark.kind), *(f"{run.metrics.get(m, -1):.4f}" for m in metrics)]
        for name, group in groups.items()
        for run in group
    ]
    digest = f"{zlib.crc32(repr(points).encode()):08x}"
    return Drawing(mark.options["out"], groups, mark.kind, metrics, digest)


def _picture(drawing: Drawing) -> str:
    """Show a figure; the digest tells whether the file is of these runs."""
    words = f"{', '.join(drawing.metrics)} over {drawing.setting}"
    return f"![{words}]({drawing.path})\n<!-- drawn from {drawing.digest} -->\n"
