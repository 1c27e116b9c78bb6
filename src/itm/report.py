"""`python -m itm.report`: one page over any set of runs, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from itm.app.config import CONF
from itm.app.entry import run
from itm.metrics import significance
from itm.runs.groups import deviation, group_seeds, mean
from itm.runs.history import Run, find_runs
from itm.runs.tables import RECALLS, markdown_table
from itm.visual import html as pages

EXTRA = ("i2t_ncs_10", "t2i_ncs_10")  # shown beside the recalls where runs have them
CURVES = ("train/loss", "val/rsum")
NOTE = (
    "± is the deviation over seeds. The interval is that of rsum over other test images "
    "(95 %, bootstrap over images with all their captions)."
)


class Block(NamedTuple):
    """A part of the page: a heading, and below it text, a table and a picture, where given."""

    title: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    picture: Path | None = None


def report(cfg: DictConfig) -> Path:
    """Read the runs, write report.md, report.html, runs.csv and the plots.

    Returns:
        The folder.

    Raises:
        ValueError: no runs= and no outputs in the working folder, or an against= that no run has.
        FileNotFoundError: nothing below the given folders.
    """
    out = Path(cfg.out or HydraConfig.get().runtime.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    runs, failed = find_runs(places(cfg.runs))
    # The default is known although a loss may have no margin.
    known = {"loss.margin", *(setting for r in runs for setting in r.settings)}
    if cfg.against not in known:
        raise ValueError(
            f"against={cfg.against} is no option of these runs: one of {', '.join(sorted(known))}"
        )
    blocks: list[Block] = []
    tests = list(dict.fromkeys(r.test for r in runs))
    for number, test in enumerate(tests):
        part = [r for r in runs if r.test == test]
        blocks += compare(part, cfg, out, f"_{number}" if number else "")
    blocks.append(every_run(runs))
    if failed:
        text = "\n".join(str(folder) for folder in failed)
        blocks.append(Block(f"{len(failed)} runs without results", text))
    title = f"{len(runs)} runs"
    (out / "report.md").write_text(markdown(title, blocks), encoding="utf-8")
    (out / "report.html").write_text(html(title, blocks), encoding="utf-8")
    print(f"{len(runs)} runs, {len(failed)} without results; written to {out / 'report.html'}")
    return out


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


def compare(runs: Sequence[Run], cfg: DictConfig, out: Path, suffix: str) -> list[Block]:
    """The blocks of all runs on one test: results, differences and pictures."""
    groups = group_seeds(runs)
    best = dict(islice(groups.items(), cfg.most))
    blocks = [results(groups, runs[0].test, cfg.samples)]
    ranked = {name: g for name, g in best.items() if all(r.ranks for r in g)}
    if len(ranked) > 1:
        blocks.append(differences(ranked, cfg.samples))
    try:
        from itm.visual import report_figures as report_plots
    except ImportError:
        print("no plots: pip install 'itm-lightning[plot]'")
        return blocks
    over = ("i2t_r1", "t2i_r1", *EXTRA)
    figures = {
        "recall": ("Recall at K", report_plots.recall_curves(best)),
        "against": (f"Over {cfg.against}", report_plots.against(groups, cfg.against, over)),
        "training": ("Training", report_plots.training_curves(best, CURVES)),
    }
    for name, (title, figure) in figures.items():
        if figure is not None:
            path = out / f"{name}{suffix}.svg"
            figure.savefig(path)
            blocks.append(Block(title, picture=path))
    return blocks


def results(groups: dict[str, list[Run]], test: str, samples: int) -> Block:
    """The table of all settings, best mean rsum first."""
    metrics = [
        name
        for name in (*RECALLS, *EXTRA)
        if any(name in r.metrics for group in groups.values() for r in group)
    ]
    rows = []
    for name, group in groups.items():
        row: list[Any] = [name, len(group), spread(group, "rsum")]
        kept = [r.ranks for r in group if r.ranks]
        if kept and all(significance.same_queries(kept[0], ranks) for ranks in kept):
            row.append("{:.1f} to {:.1f}".format(*significance.interval(kept, samples)))
        else:
            row.append("")
        rows.append([*row, *(spread(group, metric) for metric in metrics)])
    columns = ["runs equal up to the seed", "seeds", "rsum", "95 % interval", *metrics]
    return Block(f"Results on {test}", NOTE, columns, rows)


def spread(group: Sequence[Run], metric: str) -> str:
    """Mean and deviation over seeds, such as "410.2 ± 1.3"."""
    value, around = mean(group, metric), deviation(group, metric)
    if np.isnan(value):
        return ""
    return f"{value:.1f}" if np.isnan(around) else f"{value:.1f} ± {around:.1f}"


def differences(groups: dict[str, list[Run]], samples: int) -> Block:
    """Every pair of settings: the difference of rsum, its interval and its corrected p value."""
    names = list(groups)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    ranks = {name: [r.ranks for r in group if r.ranks] for name, group in groups.items()}
    pairs = [(a, b) for a, b in pairs if significance.same_queries(ranks[a][0], ranks[b][0])]
    found = [significance.compare(ranks[a], ranks[b], samples) for a, b in pairs]
    corrected = significance.holm([difference.p for difference in found])
    rows = [
        [a, b, f"{d.value:+.1f}", f"{d.low:+.1f} to {d.high:+.1f}", f"{p:.3f}", verdict(p)]
        for (a, b), d, p in zip(pairs, found, corrected, strict=True)
    ]
    text = (
        "rsum of the first minus rsum of the second on the same drawn test images, "
        f"{samples} samples; p is corrected for the number of pairs (Holm). Seeds of one setting "
        "are averaged: the luck of training is not in these intervals, compare ± above."
    )
    columns = ["first", "second", "rsum", "95 % interval", "p", "5 % level"]
    return Block("Differences", text, columns, rows)


def verdict(p: float) -> str:
    """Whether a difference may be called one."""
    return "different" if p < 0.05 else "not told apart"


def every_run(runs: Sequence[Run]) -> Block:
    """One line a run: where it is and what came out."""
    rows = [
        [r.name, "" if r.seed is None else str(r.seed), f"{r.rsum:.1f}", r.test, str(r.folder)]
        for r in sorted(runs, key=lambda r: -r.rsum)
    ]
    return Block("All runs", "", ["run", "seed", "rsum", "measured on", "folder"], rows)


def markdown(title: str, blocks: Sequence[Block]) -> str:
    """The page as GitHub Markdown; pictures lie beside it."""
    parts = [f"# {title}\n"]
    for block in blocks:
        parts.append(f"## {block.title}\n")
        if block.text:
            parts.append(f"{block.text}\n")
        if block.columns:
            safe = [[str(cell).replace("|", r"\|") for cell in row] for row in block.rows]
            parts.append(markdown_table(block.columns, safe))
        if block.picture:
            parts.append(f"![{block.title}]({block.picture.name})\n")
    return "\n".join(parts)


def html(title: str, blocks: Sequence[Block]) -> str:
    """The page as one HTML file that holds its pictures."""
    sections = []
    for block in blocks:
        content: list[Any] = [pages.element("p", block.text, class_="quiet")] if block.text else []
        if block.columns:
            content.append(pages.table(block.columns, block.rows))
        if block.picture:
            picture = pages.thumbnail(block.picture, alt=block.title)
            content.append(pages.element("figure", picture, style="background: #fff"))
        sections.append(pages.section(block.title, *content))
    return pages.page(title, *sections)


@hydra.main(version_base="1.3", config_path=CONF, config_name="report")
def _main(cfg: DictConfig) -> None:
    report(cfg)


def main() -> None:
    """Console entry point."""
    run(_main)


if __name__ == "__main__":
    main()
