"""Join what several folders tell of one run, and tell apart what must not be joined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from itm.runs.run_files import SCORED, comparable

if TYPE_CHECKING:
    from itm.runs.history import Run


def merge(runs: Iterable[Run]) -> list[Run]:
    """Join runs that were found twice, and each run with its evaluations on the same test split.

    A joined run has the name of the first. Evaluations with different relevances are not joined,
    because their graded metrics have the same names.
    """
    found: dict[Any, list[Run]] = {}
    for run in runs:
        place = (run.source, run.test) if run.source else (run.folder.resolve(), run.row)
        key = *place, *(comparable(name, run.settings.get(name)) for name in SCORED)
        joined = found.setdefault(key, [])
        for i, first in enumerate(joined):
            if all(run.relevance.get(k, x) == x for k, x in first.relevance.items()):
                joined[i] = join(first, run)
                break
        else:
            joined.append(run)
    return _with_relevance([run for joined in found.values() for run in joined])


def join(first: Run, run: Run) -> Run:
    """Add to a run what another reading of it, or a copy of it, knows more."""
    ranks, curves = first.ranks or run.ranks, first.curves or run.curves
    metrics, relevance = run.metrics | first.metrics, run.relevance | first.relevance
    return replace(first, metrics=metrics, ranks=ranks, curves=curves, relevance=relevance)


def _with_relevance(runs: Sequence[Run]) -> list[Run]:
    """Make the relevance a setting where it differs, so that no table mixes graded metrics."""
    kinds = sorted({kind for run in runs for kind in run.relevance})
    apart = [kind for kind in kinds if len({r.relevance.get(kind) for r in runs} - {None}) > 1]
    return [
        replace(run, settings={**run.settings, **{f"relevance.{k}": run.relevance[k] for k in own}})
        if run.settings and (own := [kind for kind in apart if kind in run.relevance])
        else run
        for run in runs
    ]


def with_content(runs: Sequence[Run]) -> list[Run]:
    """Tell apart tests of one folder whose captions or features have changed in the meantime."""
    contents: dict[str, set[str]] = {}
    for run in runs:
        contents.setdefault(run.test, set()).add(run.content)
    return [
        replace(run, test=f"{run.test}, content {run.content}")
        if run.content and len(contents[run.test] - {""}) > 1
        else run
        for run in runs
    ]
