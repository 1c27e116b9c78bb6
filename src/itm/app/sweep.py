"""The Hydra callback that ends a sweep with one table over all jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class Summary(Callback):
    """Print one table over the jobs of a multirun; write it as CSV, Markdown and a plot."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read what the jobs wrote; a job without results is listed as failed."""
        # Late, since every run makes this callback before it starts.
        from itm.runs.sweep import collect_jobs, job_table, write_table
        from itm.runs.tables import rows_table

        folder = Path(config.hydra.sweep.dir)
        jobs = collect_jobs(folder)
        if not jobs:
            return
        columns, rows = job_table(jobs)
        print(rows_table(f"{len(rows)} jobs in {folder}", columns, rows))
        write_table(folder, columns, rows)
        try:
            from itm.visual.sweep_figure import plot_jobs
        except ImportError:
            print("no plot: pip install 'itm-lightning[plot]'")
        else:
            plot_jobs(columns, rows, folder / "summary.png")
