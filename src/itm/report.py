"""`python -m itm.report`: one page over any set of runs, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from itm.app.config import CONF
from itm.app.entry import run
from itm.runs.groups import group_seeds
from itm.runs.history import Run, find_runs
from itm.runs.report import Section, differences, every_run, markdown, results
from itm.visual.report_page import report_page


def report(cfg: DictConfig) -> Path:
    """Read the runs, write report.md, report.html and the plots.

    Returns:
        The folder.

    Raises:
        ValueError: no runs= and no outputs in the working folder, or an against= that no run has.
        FileNotFoundError: no run below the given folders.
    """
    out = Path(cfg.out or HydraConfig.get().runtime.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    runs, failed = find_runs(places(cfg.runs))
    # The default is accepted even where no loss has a margin.
    known = {"loss.margin", *(setting for r in runs for setting in r.settings)}
    if cfg.against not in known:
        raise ValueError(
            f"against={cfg.against} is not an option of these runs: give one of "
            f"{', '.join(sorted(known))}"
        )
    sections: list[Section] = []
    for number, test in enumerate(dict.fromkeys(r.test for r in runs)):
        part = [r for r in runs if r.test == test]
        sections += compare(part, cfg, out, f"_{number}" if number else "")
    sections.append(every_run(runs))
    if failed:
        text = "\n".join(str(folder) for folder in failed)
        sections.append(Section(f"{len(failed)} runs without results", text))
    title = f"{len(runs)} runs"
    (out / "report.md").write_text(markdown(title, sections), encoding="utf-8")
    (out / "report.html").write_text(report_page(title, sections), encoding="utf-8")
    print(f"{len(runs)} runs, {len(failed)} without results; written to {out / 'report.html'}")
    return out


def compare(runs: Sequence[Run], cfg: DictConfig, out: Path, suffix: str) -> list[Section]:
    """The sections on all runs on one test: results, differences and plots."""
    groups = group_seeds(runs)
    best = dict(islice(groups.items(), cfg.most))
    tables = [results(groups, runs[0].test, cfg.samples), differences(best, cfg.samples)]
    sections = [table for table in tables if table is not None]
    try:
        from itm.visual.report_figures import report_figures
    except ImportError:
        print("no plots: pip install 'itm-lightning[plot]'")
        return sections
    return sections + report_figures(groups, best, cfg.against, out, suffix)


def places(given: Any) -> list[str]:
    """The folders to search.

    Raises:
        ValueError: none given and none of the usual ones there.
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


@hydra.main(version_base="1.3", config_path=CONF, config_name="report")
def _main(cfg: DictConfig) -> None:
    report(cfg)


def main() -> None:
    """Console entry point."""
    run(_main)


if __name__ == "__main__":
    main()
