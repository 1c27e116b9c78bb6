"""Plots of results; importing this module needs matplotlib."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def plot_ranks(ranks: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Recall at every K: the share of queries whose right item is among the first K.

    Args:
        ranks: name -> 0-based ranks of image queries and of caption queries.
        path: picture to write.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, way, title in zip(
        figure.subplots(1, 2, sharey=True), (0, 1), ("image to text", "text to image"), strict=True
    ):
        for name, both in ranks.items():
            found = np.sort(both[way][both[way] >= 0]) + 1
            axes.step(
                found, 100 * np.arange(1, len(found) + 1) / len(found), where="post", label=name
            )
        axes.set_xscale("log")
        axes.set(title=title, xlabel="K", ylim=(0, 100))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("recall at K, %")
    figure.axes[1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
