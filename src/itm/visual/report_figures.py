"""Draw figures over many runs: recall at K, metrics over a swept option, training curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from itm.metrics.significance import QueryRanks
from itm.runs.escape import for_figure
from itm.runs.groups import Groups, deviation, mean, some_of
from itm.runs.history import Run
from itm.runs.report import NCS, Section
from itm.visual.figure_files import save

DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
CURVES = ("train/loss", "val/rsum")


def report_figures(
    groups: Groups, best: Groups, setting: str, folder: Path, suffix: str = ""
) -> list[Section]:
    """Draw the runs on one test and write each figure as SVG.

    Args:
        groups: all runs, grouped by the options that differ.
        best: the groups to draw in figures with one line per group.
        setting: the swept option on the horizontal axis.
        folder: folder to write to.
        suffix: suffix of the file names.

    Returns:
        One section for each figure that could be drawn.
    """
    figures = {
        "recall": ("Recall at K", recall_curves(best)),
        "against": (f"Over {setting}", against(groups, setting, ("i2t_r1", "t2i_r1", *NCS))),
        "training": ("Training", training_curves(best, CURVES)),
    }
    sections = []
    for name, (title, figure) in figures.items():
        if figure is not None:
            path = folder / f"{name}{suffix}.svg"
            save(figure, path)
            sections.append(Section(title, picture=path))
    return sections


def plot_ranks(ranks: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Write the recall curves of several matchers, up to the K at which all reach 100 %.

    Args:
        ranks: name -> 0-based ranks of image queries and of caption queries.
        path: path of the picture.
    """
    last = max(int(x.max(initial=0)) for both in ranks.values() for x in both)
    lines = {name: [dict(zip(DIRECTIONS, both, strict=True))] for name, both in ranks.items()}
    save(recall_figure(lines, np.arange(1, last + 2)), path)


def recall_curves(groups: Groups) -> Figure | None:
    """Draw recall at every K up to 100, mean over seeds; None if no run saved its ranks."""
    known = {
        name: [run.ranks for run in runs if run.ranks]
        for name, runs in groups.items()
        if all(run.ranks for run in runs)
    }
    return recall_figure(known, np.arange(1, 101)) if known else None


def recall_figure(lines: Mapping[str, Sequence[QueryRanks]], ks: np.ndarray) -> Figure:
    """Draw recall at each of `ks` in both directions.

    Args:
        lines: name -> ranks of one run, or of several seeds, whose recalls are averaged.
        ks: ascending.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (way, title) in zip(panels, DIRECTIONS.items(), strict=True):
        for name, seeds in lines.items():
            mean_recalls = np.mean([recalls(ranks[way], ks) for ranks in seeds], 0)
            axes.plot(ks, mean_recalls, label=for_figure(name))
        axes.set(title=title, xlabel="K", xscale="log", ylim=(0, 100))
        _tidy(axes)
    figure.axes[0].set_ylabel("recall at K, %")
    _legend(figure)
    return figure


def recalls(ranks: np.ndarray, ks: Sequence[int] | np.ndarray) -> np.ndarray:
    """Compute recall in percent at each of `ks`, over the queries that have an answer."""
    ranks = np.sort(ranks[ranks >= 0])
    return 100 * np.searchsorted(ranks, ks, side="left") / len(ranks)


def against(groups: Groups, setting: str, metrics: Sequence[str]) -> Figure | None:
    """Draw metrics over a swept option; None if it has fewer than two values.

    Error bars are deviations over seeds. Runs that agree in all other options share a line. A mean
    over some of the runs of a point says so, as in tables.
    """
    lines: dict[str, dict[float, Sequence[Run]]] = {}
    for name, runs in groups.items():
        value = runs[0].settings.get(setting)
        if isinstance(value, int | float):
            own = (setting, setting.rpartition(".")[2])  # loss.margin follows margin
            rest = " ".join(w for w in name.split(" ") if w.partition("=")[0] not in own)
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
            axes.errorbar(xs, ys, bars, marker="o", capsize=3, label=for_figure(name))
            for x, y in zip(xs, ys, strict=True):
                known = sum(metric in run.metrics for run in line[x])
                part = some_of(known, len(line[x])).strip()
                axes.annotate(part, (x, y), (4, 4), textcoords="offset points", fontsize="small")
        axes.set(title=metric, xlabel=for_figure(setting))
        _tidy(axes)
    if any(lines):
        _legend(figure)
    return figure


def training_curves(groups: Groups, columns: Sequence[str]) -> Figure | None:
    """Draw columns of metrics.csv over steps, a thin line per seed; None if there are none."""
    shown = [c for c in columns if any(c in r.curves for runs in groups.values() for r in runs)]
    if not shown:
        return None
    figure = Figure(figsize=(4.5 * len(shown), 3.6), layout="constrained")
    for axes, column in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        for i, (name, runs) in enumerate(groups.items()):
            label = for_figure(name)
            for run in runs:
                if column in run.curves:
                    axes.plot(*run.curves[column], color=f"C{i % 10}", lw=1.2, label=label)
                    label = "_"  # matplotlib leaves it out: one legend entry for all seeds
        axes.set(title=column, xlabel="step")
        _tidy(axes)
    _legend(figure)
    return figure


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure) -> None:
    """Draw one legend below all panels."""
    found: dict[Any, str] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label and label not in found.values():
                found[handle] = label
    if found:
        lines, labels = list(found), list(found.values())
        place: Any = "outside lower left"
        figure.legend(lines, labels, loc=place, frameon=False, fontsize=8)
