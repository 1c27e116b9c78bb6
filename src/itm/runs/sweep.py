"""The table over all jobs of a multirun, written when its last job ends."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from itm.runs.tables import RECALLS, markdown_table, rows_table


def collect(folder: Path) -> list[dict[str, Any]]:
    """Overrides and results of every job below a sweep folder, in job order."""
    jobs = []
    for hydra_folder in sorted(folder.rglob(".hydra")):
        job = hydra_folder.parent
        overrides = dict(
            str(x).partition("=")[::2] for x in OmegaConf.load(hydra_folder / "overrides.yaml")
        )
        results = job / "results.json"
        values = json.loads(results.read_text()) if results.is_file() else {}
        jobs.append({"job": job.relative_to(folder).as_posix(), "overrides": overrides, **values})
    return sorted(jobs, key=lambda job: (len(job["job"]), job["job"]))


def table(jobs: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: the swept values, then recalls and rsum of the test split, best first."""
    keys = list(dict.fromkeys(key for job in jobs for key in job["overrides"]))
    swept = [k for k in keys if len({job["overrides"].get(k) for job in jobs}) > 1]
    stage = "test" if any("test/rsum" in job for job in jobs) else "val"
    names = [name for name in [*RECALLS, "rsum"] if any(f"{stage}/{name}" in job for job in jobs)]
    rows = []
    for job in jobs:
        values = [job.get(f"{stage}/{name}", "failed") for name in names]
        rows.append([job["job"], *(job["overrides"].get(k, "") for k in swept), *values])
    rows.sort(key=lambda row: -row[-1] if isinstance(row[-1], float) else 1)
    return ["job", *swept, *(f"{stage}/{name}" for name in names)], rows


def plot(columns: list[str], rows: list[list[Any]], path: Path) -> None:
    """Bars of rsum, one per job, labelled with the swept values; needs matplotlib."""
    from matplotlib.figure import Figure

    split = next(i for i, name in enumerate(columns) if "/" in name)
    done = [row for row in rows if isinstance(row[-1], float)][::-1]
    figure = Figure(figsize=(7, 1 + 0.35 * len(done)), layout="constrained")
    axes = figure.subplots()
    labels = [" ".join(str(x) for x in row[1:split]) or str(row[0]) for row in done]
    bars = axes.barh(
        [f"{label} ({row[0]})" for label, row in zip(labels, done, strict=True)],
        [row[-1] for row in done],
        color="#4c72b0",
    )
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_xlabel(columns[-1])
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


class Summary(Callback):
    """Hydra callback: one table over the jobs on screen, as CSV, Markdown and a plot."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read what the jobs wrote; a job without results is listed as failed."""
        folder = Path(config.hydra.sweep.dir)
        jobs = collect(folder)
        if not jobs:
            return
        columns, rows = table(jobs)
        print(rows_table(f"{len(rows)} jobs in {folder}", columns, rows))
        with (folder / "summary.csv").open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
        (folder / "summary.md").write_text(markdown_table(columns, rows))
        try:
            plot(columns, rows, folder / "summary.png")
        except ImportError:
            print("no plot: pip install 'itm-lightning[plot]'")
