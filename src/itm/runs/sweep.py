"""Collect the jobs of a sweep and put their results into one table."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from itm.runs.tables import RECALLS, markdown_table

FAILURE = "failure.txt"  # in the folder of a job that failed: the error in one line


def collect_jobs(folder: Path) -> list[dict[str, Any]]:
    """Read overrides and results of every job below a sweep folder, in job order."""
    jobs = []
    for hydra_folder in sorted(folder.rglob(".hydra")):
        job = hydra_folder.parent
        given = yaml.safe_load((hydra_folder / "overrides.yaml").read_text(encoding="utf-8"))
        overrides = dict(str(x).partition("=")[::2] for x in given)
        results = job / "results.json"
        values = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
        jobs.append({"job": job.relative_to(folder).as_posix(), "overrides": overrides, **values})
        if (job / FAILURE).is_file():
            jobs[-1]["failure"] = (job / FAILURE).read_text(encoding="utf-8")
    return sorted(jobs, key=lambda job: (len(job["job"]), job["job"]))


def job_table(jobs: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Make columns and rows: the swept values, then the recalls and rsum, best job first.

    Results are of the test split, or of the validation split if no job scored the test split. The
    cells of a job without results are "failed", the last one with the reason, where it is known.
    """
    keys = list(dict.fromkeys(key for job in jobs for key in job["overrides"]))
    swept = [k for k in keys if len({job["overrides"].get(k) for job in jobs}) > 1]
    stage = "test" if any("test/rsum" in job for job in jobs) else "val"
    names = [name for name in [*RECALLS, "rsum"] if any(f"{stage}/{name}" in job for job in jobs)]
    names = names or ["rsum"]  # every job failed
    rows = []
    for job in jobs:
        values = [job.get(f"{stage}/{name}", "failed") for name in names]
        if "failure" in job:
            values[-1] = f"failed: {job['failure']}"
        rows.append([job["job"], *(job["overrides"].get(k, "") for k in swept), *values])
    rows.sort(key=lambda row: -row[-1] if isinstance(row[-1], float) else 1)
    return ["job", *swept, *(f"{stage}/{name}" for name in names)], rows


def write_table(folder: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write `summary.csv` and `summary.md` into a sweep folder."""
    with (folder / "summary.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    (folder / "summary.md").write_text(markdown_table(columns, rows), encoding="utf-8")
