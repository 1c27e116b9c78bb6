"""The pictures of a report; importing this module needs matplotlib."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from itm.runs.groups import deviation, mean
from itm.runs.history import Run

WAYS = {"i2t": "image to text", "t2i": "text to image"}
Groups = dict[str, list[Run]]  # what sets runs apart -> its runs, one a seed


def recall_curves(groups: Groups) -> Figure | None:
    """Recall at every K up to 100, mean over seeds; None when no run kept its ranks."""
    known = {name: runs for name, runs in groups.items() if all(run.ranks for run in runs)}
    if not known:
        return None
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, (way, title) in zip(figure.subplots(1, 2, sharey=True), WAYS.items(), strict=True):
        ks = np.arange(1, 101)
        for name, runs in known.items():
            axes.plot(ks, np.mean([recalls(run, way, ks) for run in runs], axis=0), label=name)
        axes.set(title=title, xlabel="K", xscale="log", ylim=(0, 100))
        _tidy(axes)
    figure.axes[0].set_ylabel("recall at K, %")
    _legend(figure)
    return figure


def recalls(run: Run, way: str, ks: Sequence[int] | np.ndarray) -> np.ndarray:
    """Recall in percent at each of `ks`."""
    assert run.ranks is not None
    ranks = np.sort(run.ranks[way][run.ranks[way] >= 0])
    return 100 * np.searchsorted(ranks, ks, side="left") / len(ranks)


def against(groups: Groups, setting: str, metrics: Sequence[str]) -> Figure | None:
    """Metrics over a swept number; bars are deviations over seeds; None without two values of it.

    Runs that agree in everything else share a line.
    """
    lines: dict[str, dict[float, list[Run]]] = {}
    for name, runs in groups.items():
        value = runs[0].settings.get(setting)
        if isinstance(value, int | float):
            rest = " ".join(w for w in name.split(" ") if not w.startswith(f"{setting}="))
            lines.setdefault(rest, {})[value] = runs
    shown = [m for m in metrics if any(m in r.metrics for rs in groups.values() for r in rs)]
    if not shown or len({value for line in lines.values() for value in line}) < 2:
        return None
    figure = Figure(figsize=(2.6 * len(shown) + 1, 3.4), layout="constrained")
    for axes, metric in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        for name, line in lines.items():
            xs = sorted(x for x in line if not np.isnan(mean(line[x], metric)))
            bars = np.nan_to_num([deviation(line[x], metric) for x in xs])
            ys = [mean(line[x], metric) for x in xs]
            axes.errorbar(xs, ys, bars, marker="o", capsize=3, label=name)
        axes.set(title=metric, xlabel=setting)
        _tidy(axes)
    if any(lines):
        _legend(figure)
    return figure


def training_curves(groups: Groups, columns: Sequence[str]) -> Figure | None:
    """Columns of metrics.csv over optimiser steps, one thin line a seed; None without any."""
    shown = [c for c in columns if any(c in r.curves for runs in groups.values() for r in runs)]
    if not shown:
        return None
    figure = Figure(figsize=(4.5 * len(shown), 3.6), layout="constrained")
    for axes, column in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        for i, (name, runs) in enumerate(groups.items()):
            for run in runs:
                if column in run.curves:
                    axes.plot(*run.curves[column], color=f"C{i % 10}", lw=1.2, label=name)
                    name = f"_{name}"  # one entry of the legend for all seeds
        axes.set(title=column, xlabel="step")
        _tidy(axes)
    _legend(figure)
    return figure


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure) -> None:
    """One legend below all panels."""
    found: dict[Any, str] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label and label not in found.values():
                found[handle] = label
    if found:
        lines, labels = list(found), list(found.values())
        place: Any = "outside lower left"
        figure.legend(lines, labels, loc=place, frameon=False, fontsize=8)
