"""Print a table over all jobs when a sweep ends (a Hydra callback)."""

from __future__ import annotations

import atexit
import math
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.utils import JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from itm.app.entry import tell
from itm.app.processes import is_first_process
from itm.app.replaced import restores
from itm.runs.escape import printable
from itm.utils.extras import install
from itm.utils.files import write_text


class Summary(Callback):
    """Print a line per finished job and a table of all; write it as CSV, Markdown and a plot."""

    def __init__(self) -> None:
        self._earlier: dict[Path, int] = {}  # jobs in the same folder that are not of this sweep

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Record the jobs of an earlier sweep; an interrupted sweep leaves its table, too."""
        from itm.runs.sweep import job_times  # late, see below

        if not is_first_process():
            return
        folder = Path(config.hydra.sweep.dir)
        self._earlier = {} if config.get("resume") else job_times(folder)
        self._at_exit = partial(self._summarise, folder)
        atexit.register(self._at_exit)

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """Print the result of a job."""
        from itm.runs.record import FAILURE  # late: every run makes this callback before it starts

        hydra: Any = config.get("hydra") or {}
        if not is_first_process():
            return
        if str(hydra.get("mode")).endswith("MULTIRUN") and job_return.status == JobStatus.COMPLETED:
            folder = Path(hydra.sweep.dir) / str(hydra.sweep.subdir)
            number = hydra.job.num
            if (folder / FAILURE).is_file():
                print(f"job {number} failed", flush=True)
            else:
                rsum = float(job_return.return_value)  # NaN without a validation
                result = "no validation" if math.isnan(rsum) else f"val rsum {rsum:.1f}"
                print(f"job {number} finished: {result}", flush=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read what the jobs wrote, and list jobs without results as failed.

        Raises:
            SystemExit: a job failed.
        """
        if not is_first_process():
            return
        atexit.unregister(self._at_exit)
        jobs = self._summarise(Path(config.hydra.sweep.dir))
        if failed := [job for job in jobs if "failure" in job]:
            print(f"{len(failed)} of {len(jobs)} jobs failed:")
            for job in failed:
                print(printable(f"  {job['job']}: {' '.join(str(job['failure']).split())}"))
            raise SystemExit(1)

    def _summarise(self, folder: Path) -> list[dict[str, Any]]:
        """Print and write tables and plot; return the jobs.

        Nothing is written if every job failed before it replaced an earlier one: the tables are
        those of the jobs that are restored.
        """
        # Late: every run makes this callback before it starts.
        from itm.runs.sweep import collect_jobs, job_table, write_table
        from itm.runs.tables import rows_table

        jobs = collect_jobs(folder, self._earlier)
        if not jobs:
            return jobs
        columns, rows = job_table(jobs)
        short = [["failed" if str(x).startswith("failed: ") else x for x in row] for row in rows]
        print(rows_table(f"{len(rows)} jobs in {folder}", columns, short))
        if restores() and all("failure" in job for job in jobs):
            return jobs
        write_table(folder, columns, rows)
        self._average(folder, jobs)
        try:
            from itm.visual.sweep_figure import plot_jobs
        except ImportError:
            print(f"no plot: {install('plot')}")
        else:
            plot_jobs(columns, rows, folder / "summary.png")
        return jobs

    def _average(self, folder: Path, jobs: list[dict[str, Any]]) -> None:
        """Write and print the means over seeds, if jobs differ in the seed alone."""
        from itm.runs.sweep import repeated_jobs, seed_table, write_table  # late, as above
        from itm.runs.tables import rows_table

        if again := repeated_jobs(jobs):
            told = ", ".join(f"job {job} repeats {first}" for job, first in again.items())
            print(f"same options, seed and results, so counted once: {told}")
        means = seed_table(jobs)
        for ending in ("csv", "md"):  # of an earlier sweep
            (folder / f"summary_seeds.{ending}").unlink(missing_ok=True)
        if means is not None:
            write_table(folder, *means, "summary_seeds")
            print(rows_table("mean ± standard deviation over seeds", *means))


def write_failure(folder: Path, error: BaseException) -> None:
    """Print the error of a job; the first process writes it to its folder, for the table."""
    from itm.runs.record import FAILURE  # late, for start-up time

    ended = isinstance(error, SystemExit)  # Python prints no reason
    reason = RuntimeError(f"the job ended the process (exit {error})") if ended else error
    line = tell(reason)
    if is_first_process():
        write_text(folder / FAILURE, line)
