"""Group runs that differ only in the seed, name what tells the groups apart, average over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from itm.runs.history import GROUPS, Run

# Settings that say where and how fast a run ran, not what was run.
ASIDE = ("seed", "trainer.", "resume", "test", "compile", "chunk_size", "data.resident",
         "callbacks", "logger", "hydra")  # fmt: skip


def differing(runs: Sequence[Run]) -> list[str]:
    """List the settings that vary between runs, without seeds and options of the machine.

    Settings that follow from the choice of model, loss, data and text, such as a published learning
    rate, are left out: naming the choice is enough.
    """
    kinds: dict[Any, list[Run]] = {}
    for run in runs:
        if run.settings:
            kinds.setdefault(tuple(run.settings.get(key) for key in GROUPS), []).append(run)
    known = [run for run in runs if run.settings]
    choices = [key for key in GROUPS if _varies(known, key)]
    names = dict.fromkeys(key for run in known for key in run.settings)
    own = [key for key in names if key not in GROUPS and not key.startswith(ASIDE)]
    return choices + [key for key in own if any(_varies(kind, key) for kind in kinds.values())]


def _varies(runs: Sequence[Run], key: str) -> bool:
    return len({str(run.settings.get(key)) for run in runs}) > 1


def group_seeds(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs that differ only in the seed; the group with the best mean rsum comes first.

    Returns:
        The varying settings in words, such as "vsrn loss.margin=0.1" -> runs. A run without
        settings forms a group of its own, under its own name.
    """
    keys = differing(runs)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_label(run, keys), []).append(run)
    return dict(sorted(groups.items(), key=lambda item: -mean(item[1], "rsum")))


def _label(run: Run, keys: Sequence[str]) -> str:
    given = {key: run.settings.get(key) for key in keys}
    words = [str(v) if k in GROUPS else f"{k}={v}" for k, v in given.items() if v is not None]
    return " ".join(words) if words and run.settings else run.name


def mean(group: Sequence[Run], metric: str) -> float:
    """Average a metric over the runs of a group that have it; NaN if no run has it."""
    values = [run.metrics[metric] for run in group if metric in run.metrics]
    return float(np.mean(values)) if values else float("nan")


def deviation(group: Sequence[Run], metric: str) -> float:
    """Compute the standard deviation of a metric over seeds (n - 1); NaN for a single run."""
    values = [run.metrics[metric] for run in group if metric in run.metrics]
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
