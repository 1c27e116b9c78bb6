"""Find runs of `itm.train` and `itm.evaluate` in folders, and what each of them reached."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from itm.metrics.ranking import RECALLS
from itm.runs.ensembles import members_of, with_members, with_validation
from itm.runs.folders import (
    REPORT,
    RESULTS,
    RUN,
    name_below,
    run_folders,
    why_nameless,
    why_unfinished,
)
from itm.runs.merging import merge, with_content
from itm.runs.outputs import check_files
from itm.runs.plain_files import data_name, read_record, run_of
from itm.runs.record import BESIDE
from itm.runs.run_files import (
    SCORED,
    SETTINGS,
    is_of_run,
    is_older,
    metrics_of,
    read_curves,
    read_ranks,
    read_results,
    read_settings,
    with_precision,
)
from itm.utils.errors import first_line
from itm.utils.manifest import KEY, check_checksums

COSTS = ("parameters_m", "epochs", "seconds")
SAME = 1.0  # points of rsum by which devices and precisions change a result


@dataclass(frozen=True)
class Run:
    """One row of a report: a training run, or one matcher of an evaluation.

    Attributes:
        folder: where it was found.
        name: folder below its root, and for an evaluation the matcher's name.
        settings: flat configuration of the training run, such as {"loss.margin": 0.2}; config
            groups by the name of the choice. Empty if the training run no longer exists.
        test: the data that was measured, such as "test of DIR, full"; only runs with the same
            value are compared.
        metrics: of the test split; of the validation split if the test split was not scored.
        ranks: "i2t" (N,), "t2i" (M,) 0-based ranks and "image" (M,), or None.
        curves: column of metrics.csv -> (optimiser steps, values).
        source: folder of the training run whose best checkpoint was measured, or None.
        validation: rsum of the validation split at the best checkpoint, or None.
        costs: "parameters_m", "epochs" and "seconds" of the training, where recorded.
        record: "command" and "device" of the training, where recorded.
        members: folders of the training runs of an ensemble.
        content: identifies the captions and features that were measured; "" if an earlier version
            measured them.
        relevance: what graded metrics were measured with, where recorded: "graded" and "text" ->
            name of the source.
        partial: "val", "test": splits of which only a part was scored.
        row: the matcher's name in an evaluation.
    """

    folder: Path
    name: str
    settings: dict[str, Any]
    test: str
    metrics: dict[str, float]
    ranks: dict[str, np.ndarray] | None
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    source: Path | None = None
    validation: float | None = None
    costs: dict[str, float] = field(default_factory=dict)
    record: dict[str, str] = field(default_factory=dict)
    members: tuple[Path, ...] = ()
    content: str = ""
    relevance: dict[str, str] = field(default_factory=dict)
    partial: tuple[str, ...] = ()
    row: str = ""

    @property
    def seed(self) -> Any:
        """Return the seed, or None."""
        return self.settings.get("seed")

    @property
    def rsum(self) -> float:
        """Return the sum of the six recalls."""
        return self.metrics["rsum"]

    @property
    def choice(self) -> float | None:
        """Return the validation by which settings are sorted and chosen: one of the whole split."""
        return None if "val" in self.partial else self.validation


class Unfinished(NamedTuple):
    """A run without results that can be shown: its folder, and the reason in one line."""

    folder: Path
    reason: str


def find_runs(
    places: Iterable[str | Path], tell: Callable[[int], None] = lambda folders: None
) -> tuple[list[Run], list[Unfinished]]:
    """Find all runs below some folders, and those that failed, are unfinished or damaged.

    Args:
        places: folders to search; links to folders below them are followed.
        tell: called with the number of folders before they are read.

    Raises:
        FileNotFoundError: a folder does not exist, or no folder holds a run.
    """
    searched = [Path(place) for place in places]
    for place in searched:
        if not place.is_dir():
            raise FileNotFoundError(f"runs={place}: no such folder; give run or sweep folders")
    folders = [(folder, place) for place in searched for folder in run_folders(place)]
    tell(len(folders))
    runs: list[Run] = []
    evaluations: list[Run] = []
    unfinished: list[Unfinished] = []
    for folder, place in folders:
        name = name_below(folder, place)
        try:
            if (folder / REPORT).is_file():
                evaluations += read_evaluation(folder, name)
        except Exception as error:  # files from anywhere; the other runs are shown
            unfinished.append(Unfinished(folder, f"damaged: {first_line(error)}"))
        try:
            if (folder / RUN).is_file() or (folder / SETTINGS).is_file():
                run = read_training(folder, name)
                runs += [run] if run else []
                unfinished += [] if run else [Unfinished(folder, why_unfinished(folder))]
            elif (folder / RESULTS).is_file() and (reason := why_nameless(folder)):
                unfinished.append(Unfinished(folder, reason))
        except Exception as error:
            unfinished.append(Unfinished(folder, f"damaged: {first_line(error)}"))
    unfinished = [*dict.fromkeys(unfinished)]
    unique = with_content(with_validation(merge([*runs, *evaluations])))
    if not unique:
        looked = ", ".join(map(str, searched))
        detail = "".join(f"\n{folder}: {reason}" for folder, reason in unfinished[:10])
        raise FileNotFoundError(
            f"no finished run below {looked}: looked for results.json beside run.json (itm.train) "
            f"and for report.json (itm.evaluate); {len(unfinished)} runs without results{detail}"
        )
    return unique, unfinished


def read_training(folder: Path, name: str) -> Run | None:
    """Read a run of itm.train; None if it has no results.

    Raises:
        ValueError: a damaged file.
    """
    results = read_results(folder)
    if results is None:
        return None
    stage = "test" if "test/rsum" in results else "val"
    metrics = metrics_of(results, f"{stage}/")
    if "rsum" not in metrics:
        raise ValueError("results.json holds no rsum")
    _check_beside(folder, results.get(KEY))
    curves = read_curves(folder / "csv" / "metrics.csv")
    if "val/rsum" in curves and stage == "val":  # only the curves hold the recalls of a validation
        best = int(np.argmax(curves["val/rsum"][1]))
        for key in RECALLS:
            values = curves.get(f"val/{key}", ((), ()))[1]
            if key not in metrics and best < len(values):
                metrics[key] = float(values[best])
    ranks = read_ranks(folder / "ranks.npz") if stage == "test" else None
    settings = with_precision(read_settings(folder), results)
    own = Run(folder, name, settings, _test(results), metrics, ranks, curves)
    own = replace(own, relevance=_relevance(results), content=_content(results))
    return replace(own, source=folder.resolve(), **_training(results))


def _check_beside(folder: Path, files: Any) -> None:
    """Compare curves and ranks with the checksums in results.json; deleted files are not missed."""
    if not isinstance(files, dict):
        return  # an earlier version recorded none
    present = {name for name in BESIDE if (folder / name).is_file()}
    check_checksums(folder, {name: x for name, x in files.items() if name in present})


def _training(results: dict[str, Any]) -> dict[str, Any]:
    """Pick what a report shows of a training: validation, costs, command."""
    rsum = results.get("val/rsum")
    numbers = {key: results[key] for key in COSTS if isinstance(results.get(key), int | float)}
    texts = {key: str(results[key]) for key in ("command", "device") if key in results}
    known = isinstance(rsum, int | float) and np.isfinite(rsum) and rsum > 0
    validation = float(rsum) if known else None  # type: ignore[arg-type]
    partial = _partial(results)
    return {"validation": validation, "costs": numbers, "record": texts, "partial": partial}


def _partial(results: dict[str, Any]) -> tuple[str, ...]:
    """Read of which splits only a part was scored."""
    found = results.get("partial")
    return tuple(map(str, found)) if isinstance(found, list) else ()


def read_evaluation(folder: Path, name: str) -> list[Run]:
    """Read the rows of a run of itm.evaluate, with the settings of the training runs.

    Raises:
        ValueError: a damaged file.
    """
    check_files(folder, ("report.json", "ranks_*.npz"))
    report = read_record(folder / "report.json")
    checkpoints, results = report.get("checkpoints", []), report.get("results")
    if not isinstance(results, dict) or not isinstance(checkpoints, list):
        raise ValueError("report.json holds no results by name")
    rows = []
    for i, (row, values) in enumerate(results.items()):
        metrics = metrics_of(values)
        if "rsum" not in metrics:
            raise ValueError(f"report.json holds no rsum of {row}")
        ranks, test = read_ranks(folder / f"ranks_{i}.npz"), _test(report)
        run = Run(folder, f"{name}: {row}", {}, test, metrics, ranks, {}, row=row)
        run = replace(run, relevance=_relevance(report), content=_content(report))
        if i < len(checkpoints):
            run = _with_training(run, i, report)
        else:
            run = with_members(run, members_of(report, row), report)
        if run.settings:  # else the name alone tells rows apart
            scored = {name: report[key] for name, key in SCORED.items() if report.get(key)}
            run = replace(run, settings={**run.settings, **scored})
        rows.append(run)
    return rows


def _with_training(run: Run, place: int, report: dict[str, Any]) -> Run:
    """Add what is known of the training run that a checkpoint of a report comes from."""
    checkpoint = Path(report["checkpoints"][place])
    source = run_of(checkpoint)
    if source is None:
        return run
    try:
        settings, results = read_settings(source), read_results(source) or {}
    except (ValueError, OSError):  # the damaged run is listed itself
        return run
    best = checkpoint in (source, source / "checkpoints" / "best.ckpt")
    if is_older(report, results) and not (best and "weights" in report):
        return run  # the training has replaced this checkpoint since
    if not best:
        settings = with_precision(settings, results)
        return replace(run, settings={**settings, "checkpoint": checkpoint.name})
    if other := _difference(run, place, report, results):
        return replace(run, name=f"{run.name} (not as its run: {other})")
    settings = with_precision(settings, results)
    return replace(run, settings=settings, source=source, **_training(results))


def _difference(run: Run, place: int, report: dict[str, Any], results: dict[str, Any]) -> str:
    """Say in what an evaluation of a best checkpoint is not that of its run; "" if in nothing."""
    if not is_of_run(report, place, results):
        return "other weights"
    if _test(results) != run.test:
        return ""
    content = _content(results)
    if content and run.content and content != run.content:
        return "other data"
    rsum = results.get("test/rsum")
    known = isinstance(rsum, int | float) and not any(report.get(key) for key in SCORED.values())
    apart = known and abs(rsum - run.rsum) > SAME  # type: ignore[operator]
    return "other data or weights" if apart else ""


def _content(facts: dict[str, Any]) -> str:
    """Read what identifies the measured data; "" if an earlier version wrote the file."""
    found = facts.get("content")
    return found if isinstance(found, str) else ""


def _relevance(facts: dict[str, Any]) -> dict[str, str]:
    """Read what graded metrics were measured with; {} if an earlier version wrote the file."""
    found = facts.get("relevance")
    return {k: str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _test(facts: dict[str, Any]) -> str:
    """Put `itm.runs.record.split_facts` into words."""
    if "split" not in facts:
        return "unknown split"
    stage = "test" if "test/rsum" in facts else "val"
    part = " (part)" if stage in _partial(facts) else ""
    others = f" with {facts['sentences']}" if "sentences" in facts else ""
    return "{split} of {root}, {images} images{}, {protocol}".format(others, **facts) + part


def short_tests(tests: Iterable[str]) -> dict[str, str]:
    """Shorten the folders in `Run.test`, unless two tests would then have the same title."""
    rest = r", \d+ images( with \w+)?, \w+( \(part\))?(, content \w+)?"
    form = rf"(?P<split>.*? of )(?P<root>.*)(?P<rest>{rest})"
    found = {test: re.fullmatch(form, test) for test in tests}
    short = {
        test: f"{match['split']}{data_name(match['root'])}{match['rest']}" if match else test
        for test, match in found.items()
    }
    return short if len({*short.values()}) == len(short) else {test: test for test in found}
