"""Collect the jobs of a sweep and put their results into tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from itm.metrics.ranking import RECALLS
from itm.runs.escape import for_markdown
from itm.runs.folders import SKIPPED
from itm.runs.groups import averaged, count_runs
from itm.runs.plain_files import read_record, read_yaml
from itm.runs.record import FAILURE
from itm.runs.run_files import BATCHES, is_aside, metrics_of, read_results
from itm.runs.tables import cell_text, csv_table, markdown_table
from itm.utils.errors import first_line
from itm.utils.files import write_text


class Table(NamedTuple):
    """Columns and rows."""

    columns: list[str]
    rows: list[list[Any]]


def job_times(folder: Path) -> dict[Path, int]:
    """Return when each job below a sweep folder began, for `collect_jobs`."""
    files = folder.rglob(".hydra/overrides.yaml")
    own = (file for file in files if file.parent.parent.name not in SKIPPED)
    return {file.parent.parent: file.stat().st_mtime_ns for file in own}


def collect_jobs(folder: Path, earlier: Mapping[Path, int] | None = None) -> list[dict[str, Any]]:
    """Read overrides and results of every job below a sweep folder, in job order.

    Args:
        folder: folder of the sweep.
        earlier: `job_times` before the sweep began; jobs of an earlier sweep in the same folder
            are left out.

    Returns:
        For each job "job", "overrides" and its metrics, or "failure" with the reason in one line.
    """
    jobs = []
    for job, time in job_times(folder).items():
        if (earlier or {}).get(job) != time:
            jobs.append({"job": job.relative_to(folder).as_posix(), **_read_job(job)})
    return sorted(jobs, key=lambda job: (len(job["job"]), job["job"]))


def _read_job(job: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"overrides": {}}
    try:
        began = job / "run.json"  # with a checksum; a job that failed earlier has none
        given = read_record(began)["overrides"] if began.is_file() else None
        given = given or read_yaml(job / ".hydra" / "overrides.yaml")
        found["overrides"] = dict(str(x).partition("=")[::2] for x in given)
        if (job / FAILURE).is_file():
            failure = (job / FAILURE).read_text(encoding="utf-8", errors="replace")
            return {**found, "failure": failure}
        results = read_results(job)
        if results is not None:
            found |= {f"val/{k}": v for k, v in metrics_of(results, "val/").items()}
            found |= {f"test/{k}": v for k, v in metrics_of(results, "test/").items()}
    except Exception as error:  # one damaged job is one row of the table
        return {**found, "failure": f"damaged: {first_line(error)}"}
    return found


def job_table(jobs: Sequence[dict[str, Any]]) -> Table:
    """Tabulate the swept values, the validation and the test of every job, best validation first.

    Recalls are of the test split, or of the validation split if no job scored the test split. The
    cells of a job without results are "failed"; the last one adds the reason, if known.
    """
    swept, names = _columns(jobs)
    rows = []
    for job in jobs:
        values = [job.get(name, "failed") for name in names]
        if "failure" in job:
            values = ["failed"] * (len(names) - 1) + [f"failed: {job['failure']}"]
        rows.append([job["job"], *(job["overrides"].get(k, "") for k in swept), *values])
    first = len(swept) + 1  # val/rsum, if there is one, else the last column
    key = first if names[0] == "val/rsum" else -1
    rows.sort(key=lambda row: -row[key] if isinstance(row[key], float) else 1)
    return Table(["job", *swept, *names], rows)


def seed_table(jobs: Sequence[dict[str, Any]]) -> Table | None:
    """Average the jobs that differ only in the seed: mean ± standard deviation, number of runs.

    Jobs that repeat each other (`repeated_jobs`) count once; options that change no number, such as
    data.workers, do not split seeds.

    Returns:
        The table, best validation first; None if no two finished jobs differ in the seed alone.
    """
    swept, names = _columns(jobs)
    swept = [key for key in swept if not is_aside(key.lstrip("+"))]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    again = repeated_jobs(jobs)
    for job in jobs:
        if _is_measured(job) and job["job"] not in again:
            groups.setdefault(_values(job, swept), []).append(job)
    seeds = {key: len({_values(job, ["seed"]) for job in group}) for key, group in groups.items()}
    if not any(count > 1 for count in seeds.values()):
        return None
    order = "val/rsum" if "val/rsum" in names else names[-1]
    means = {v: np.mean([job.get(order, -np.inf) for job in group]) for v, group in groups.items()}
    rows = [
        [
            *(group[0]["overrides"].get(key, "") for key in swept),
            count_runs(len(group), seeds[values]),
            *(averaged([job.get(name) for job in group]) for name in names),
        ]
        for values, group in sorted(groups.items(), key=lambda item: -means[item[0]])
    ]
    return Table([*swept, "runs", *names], rows)


def repeated_jobs(jobs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Find jobs that repeat an earlier one: same options, same seed, same results.

    Returns:
        Name of the repeating job -> name of the first one.
    """
    first: dict[Any, str] = {}
    again = {}
    for job in filter(_is_measured, jobs):
        options = sorted(k for k in job["overrides"] if k == "seed" or not is_aside(k.lstrip("+")))
        scores = [x for x in job.items() if x[0].startswith(("val/", "test/"))]
        key = tuple(options), _values(job, options), tuple(sorted(scores))
        if first.setdefault(key, job["job"]) != job["job"]:
            again[job["job"]] = first[key]
    return again


def _is_measured(job: dict[str, Any]) -> bool:
    return "failure" not in job and any(key in job for key in ("val/rsum", "test/rsum"))


def _values(job: dict[str, Any], keys: Sequence[str]) -> tuple[Any, ...]:
    """Return options of a job, with equal numbers made equal, such as 1e-3 and 0.001."""
    return tuple(_number(key.lstrip("+"), job["overrides"].get(key, "")) for key in keys)


def _number(key: str, text: Any) -> Any:
    try:
        number = float(text)
    except ValueError:
        return text
    # 1 is a number of batches, 1.0 all of them
    return (number, str(text).isdecimal()) if BATCHES.fullmatch(key) else number


def _columns(jobs: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Find the options that vary between jobs, and the metrics that are known; rsum comes last."""
    keys = dict.fromkeys(key for job in jobs for key in job["overrides"])
    # Of some jobs only: of an interrupted sweep, or of one that failed before it had a record.
    for key in ("resume", "overwrite", "sweep"):
        keys.pop(key, None)
    swept = [k for k in keys if len({job["overrides"].get(k) for job in jobs}) > 1]
    stage = "test" if any("test/rsum" in job for job in jobs) else "val"
    names = [f"{stage}/{name}" for name in (*RECALLS, "rsum")]
    if stage == "test":
        names.insert(0, "val/rsum")
    return swept, [n for n in names if any(n in job for job in jobs)] or ["val/rsum"]


def write_table(
    folder: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]], name: str = "summary"
) -> None:
    """Write a table into a sweep folder as CSV and as Markdown."""
    write_text(folder / f"{name}.csv", csv_table(columns, rows))
    cells = [[for_markdown(cell_text(cell)) for cell in row] for row in rows]
    text = markdown_table([for_markdown(column) for column in columns], cells)
    write_text(folder / f"{name}.md", text)
