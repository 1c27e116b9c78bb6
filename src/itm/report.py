"""`python -m itm.report`: make a page on any set of runs, and print their results as a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from itm.app.config import CONF
from itm.app.entry import run
from itm.app.run_data import check_result_folder
from itm.runs import report_files
from itm.runs.escape import printable
from itm.runs.groups import Groups, group_seeds
from itm.runs.history import find_runs
from itm.runs.outputs import result_folder
from itm.runs.report import Section, costs, differences, every_run, results, unfinished_runs
from itm.utils.checks import check_choice
from itm.utils.extras import install
from itm.utils.files import write_text
from itm.visual.report_page import report_page

COMMAND = "itm.report"
FILES = ("report.md", "report.html", "results.*", "recall*.svg", "against*.svg", "training*.svg")
ENDINGS = {"csv": "csv", "latex": "tex", "json": "json"}


def command(cfg: DictConfig) -> Path:
    """Read the runs; write the page, the plots and the tables; print the results.

    Returns:
        The folder.

    Raises:
        ValueError: there is neither runs= nor an output in the working folder, no run has the
            option against=, or the folder holds another report.
        FileNotFoundError: there is no run below the given folders.
    """
    check_choice("format", cfg.format, report_files.FORMATS)
    out = Path(cfg.out or HydraConfig.get().runtime.output_dir)
    searched = places(cfg.runs)
    with result_folder(out, COMMAND, FILES, cfg.overwrite) as folder:
        runs, unfinished = find_runs(searched)
        # The default is accepted even if no loss has a margin.
        known = {"loss.margin", *(setting for r in runs for setting in r.settings)}
        if cfg.against not in known:
            raise ValueError(
                f"against={cfg.against} is not an option of these runs: give one of "
                f"{', '.join(sorted(known))}"
            )
        tests = {
            test: group_seeds([r for r in runs if r.test == test])
            for test in dict.fromkeys(r.test for r in runs)
        }
        sections: list[Section] = []
        for number, (test, groups) in enumerate(tests.items()):
            sections += compare(groups, test, cfg, folder, f"_{number}" if number else "")
        sections.append(every_run(runs))
        if unfinished:
            sections.append(unfinished_runs(unfinished))
        title = report_files.title_of(searched, runs)
        write_text(folder / "report.md", report_files.markdown(title, sections))
        write_text(folder / "report.html", report_page(title, sections))
        for kind, ending in ENDINGS.items():
            text = report_files.format_results(tests, kind)
            write_text(folder / f"results.{ending}", text)
    print(report_files.format_results(tests, cfg.format))
    failed = f", {len(unfinished)} without results" if unfinished else ""
    note = f"{len(runs)} runs{failed}; written to {out / 'report.html'}"
    print(printable(note), file=None if cfg.format == "text" else sys.stderr)
    return out


def compare(
    groups: Groups, test: str, cfg: DictConfig, folder: Path, suffix: str
) -> Sequence[Section]:
    """Make the sections on all runs on one test split: results, differences, cost and plots."""
    best = dict(islice(groups.items(), cfg.most))
    tables = [results(groups, test, cfg.samples), differences(best, cfg.samples), costs(groups)]
    sections = [table for table in tables if table is not None and table.rows]
    try:
        from itm.visual.report_figures import report_figures
    except ImportError:
        print(f"no plots: {install('plot')}")
        return sections
    return sections + report_figures(groups, best, cfg.against, folder, suffix)


def places(given: Any) -> list[str]:
    """List the folders to search.

    Raises:
        ValueError: no folders are given, and the usual ones do not exist.
    """
    if given is not None:
        return [str(x) for x in given] if isinstance(given, ListConfig) else [str(given)]
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


@hydra.main(version_base="1.3", config_path=CONF, config_name="report")
def _main(cfg: DictConfig) -> None:
    command(cfg)


def main() -> None:
    """Console entry point."""
    run(_main, prepare)


if __name__ == "__main__":
    main()
