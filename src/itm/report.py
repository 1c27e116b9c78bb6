"""`python -m itm.report`: make a page on any set of runs, and print their results as a table."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from itm.app.config import listed, output_folder
from itm.app.entry import run
from itm.app.run_data import check_result_folder
from itm.runs.escape import printable
from itm.runs.groups import tell_repeats
from itm.runs.history import find_runs
from itm.runs.kept import keep_records, plan_records
from itm.runs.outputs import result_folder
from itm.runs.report_files import FORMATS, format_results, title_of
from itm.utils.checks import check_choice
from itm.utils.extras import install
from itm.visual.report_page import Draw, check_pages, write_page, write_report

COMMAND = "itm.report"
MANY = 50  # folders that take more than a few seconds to read on a busy machine
FILES = ("report.md", "report.html", "results.*", "recall*.svg", "against*.svg", "training*.svg")


def command(cfg: DictConfig) -> Path:
    """Read the runs; write the page, the plots and the tables; print the results.

    Returns:
        The folder.

    Raises:
        ValueError: there is neither runs= nor an output in the working folder, no run has the
            option against=, the folder holds another report, or keep= another record.
        FileNotFoundError: there is no run below the given folders, or no page pages=.
    """
    check_choice("format", cfg.format, FORMATS)
    out = Path(cfg.out or output_folder())
    pages = [*{Path(page).resolve(): Path(page) for page in listed(cfg.pages)}.values()]
    for page in pages:
        if not page.is_file():
            raise FileNotFoundError(f"pages={page}: no such file; give Markdown pages with marks")
    searched = places(cfg.runs)
    draw: Draw | None = None
    with suppress(ImportError):  # matplotlib is optional
        from itm.visual.report_figures import report_figures

        draw = report_figures
    with result_folder(out, COMMAND, FILES, cfg.overwrite) as folder:
        runs, unfinished = find_runs(searched, _tell_many)
        records = {} if cfg.keep is None else plan_records(runs, Path(cfg.keep))
        check_pages(pages, runs)
        title = title_of(searched, runs)
        tests = write_report(
            folder, title, runs, unfinished, cfg.against, cfg.most, cfg.samples, draw
        )
    if cfg.keep is not None:
        keep_records(records)
        print(
            printable(f"{len(records)} of {len(runs)} results kept in {cfg.keep}"), file=sys.stderr
        )
    for page in pages:
        filled = write_page(page, runs, cfg.samples)
        marks = f"{filled} mark{'s'[: filled != 1]} filled"
        print(printable(f"{page}: {marks}"), file=sys.stderr)
    for folder, reason in unfinished if pages else ():  # a row of a page may lack this run
        print(printable(f"not on the page: {folder}: {reason}"), file=sys.stderr)
    print(format_results(tests, cfg.format))
    failed = f", {len(unfinished)} without results" if unfinished else ""
    aside = None if cfg.format == "text" else sys.stderr
    count = f"{len(runs)} run{'s'[: len(runs) != 1]}"
    if repeats := tell_repeats(runs):
        print(printable(repeats), file=aside)
    print(printable(f"{count}{failed}; written to {out / 'report.html'}"), file=aside)
    if draw is None:
        print(f"no plots: {install('plot')}", file=aside)
    return out


def _tell_many(folders: int) -> None:
    """Say that reading many folders takes a while."""
    if folders >= MANY:
        print(f"reading {folders} folders ...", file=sys.stderr)


def places(given: Any) -> list[str]:
    """List the folders to search.

    Raises:
        ValueError: no folders are given, and the usual ones do not exist.
    """
    if given is not None:
        return listed(given)
    usual = [name for name in ("outputs", "multirun") if Path(name).is_dir()]
    if not usual:
        raise ValueError(
            "no runs here: give runs=FOLDER (a run, a sweep, an evaluation, or a folder of them), "
            "or make some: python -m itm.train -m loss.margin=0.1,0.2"
        )
    return usual


def prepare(arguments: list[str]) -> list[str]:
    """Check the output folder."""
    check_result_folder(arguments, COMMAND, FILES, "out")
    return arguments


def main() -> None:
    """Console entry point."""
    run("report", command, prepare)


if __name__ == "__main__":
    main()
