"""Plot the jobs of a sweep."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from itm.runs.escape import for_figure
from itm.visual.figure_files import save


def plot_jobs(columns: Sequence[str], rows: Sequence[Sequence[Any]], path: Path) -> None:
    """Draw a bar of rsum for each finished job, labelled with the swept values.

    Args:
        columns: columns of `itm.runs.sweep.job_table`: job, swept options, metrics, rsum last.
        rows: one row per job; a failed job has no number in the last cell.
        path: picture to write.
    """
    split = next(i for i, name in enumerate(columns) if name.startswith(("val/", "test/")))
    done = [row for row in rows if isinstance(row[-1], float)][::-1]
    figure = Figure(figsize=(7, 1 + 0.35 * len(done)), layout="constrained")
    axes = figure.subplots()
    labels = [" ".join(str(x) for x in row[1:split]) or str(row[0]) for row in done]
    bars = axes.barh(
        [for_figure(f"{label} ({row[0]})") for label, row in zip(labels, done, strict=True)],
        [row[-1] for row in done],
        color="#4c72b0",
    )
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_xlabel(columns[-1])
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
