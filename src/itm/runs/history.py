"""Read what finished runs left behind: settings, results, ranks of queries, learning curves."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from itm.runs.tables import RECALLS

GROUPS = ("model", "loss", "data", "text")  # config groups whose choice names a run


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
    """

    folder: Path
    name: str
    settings: dict[str, Any]
    test: str
    metrics: dict[str, float]
    ranks: dict[str, np.ndarray] | None
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    source: Path | None = None

    @property
    def seed(self) -> Any:
        """The seed, or None."""
        return self.settings.get("seed")

    @property
    def rsum(self) -> float:
        """Sum of the six recalls."""
        return self.metrics["rsum"]


def find_runs(places: Iterable[str | Path]) -> tuple[list[Run], list[Path]]:
    """Find all runs below some folders, and the folders of training runs without results.

    Raises:
        FileNotFoundError: a folder does not exist, or no folder holds a run.
    """
    runs, failed = [], []
    for place in map(Path, places):
        if not place.is_dir():
            raise FileNotFoundError(f"runs={place}: no such folder; give run or sweep folders")
        for record in sorted(place.rglob("run.json"), key=_natural):
            folder = record.parent
            run = read_training(folder, _name(folder, place))
            runs.append(run) if run else failed.append(folder)
        for record in sorted(place.rglob("report.json"), key=_natural):
            runs += read_evaluation(record.parent, _name(record.parent, place))
    unique = merge(runs)
    if not unique:
        looked = ", ".join(map(str, places))
        raise FileNotFoundError(
            f"no finished run below {looked}: looked for results.json beside run.json (itm.train) "
            f"and for report.json (itm.evaluate); {len(failed)} unfinished runs"
        )
    return unique, failed


def merge(runs: Iterable[Run]) -> list[Run]:
    """Join runs that were found twice, and each run with its evaluations on the same test split."""
    found: dict[Any, Run] = {}
    for run in runs:
        key = (run.source, run.test) if run.source else (run.folder.resolve(), run.name)
        first = found.setdefault(key, run)
        if first is not run:
            ranks, curves = first.ranks or run.ranks, first.curves or run.curves
            metrics = run.metrics | first.metrics
            found[key] = replace(first, metrics=metrics, ranks=ranks, curves=curves)
    return list(found.values())


def read_training(folder: Path, name: str) -> Run | None:
    """Read a run of itm.train; None if it has no results."""
    path = folder / "results.json"
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    stage = "test" if "test/rsum" in values else "val"
    prefix = f"{stage}/"
    metrics = {k.removeprefix(prefix): float(v) for k, v in values.items() if k.startswith(prefix)}
    curves = read_curves(folder / "csv" / "metrics.csv")
    for key in RECALLS:  # of an interrupted run only the curves hold them
        if key not in metrics and f"val/{key}" in curves:
            best = int(np.argmax(curves["val/rsum"][1]))
            metrics[key] = float(curves[f"val/{key}"][1][best])
    ranks = read_ranks(folder / "ranks.npz") if stage == "test" else None
    settings = read_settings(folder)
    return Run(folder, name, settings, _test(values), metrics, ranks, curves, folder.resolve())


def read_evaluation(folder: Path, name: str) -> list[Run]:
    """Read the rows of a run of itm.evaluate, with the settings of the training runs."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    checkpoints = report.get("checkpoints", [])
    rows = []
    for i, (row, metrics) in enumerate(report["results"].items()):
        checkpoint = Path(checkpoints[i]) if i < len(checkpoints) else None
        source = _run_of(checkpoint) if checkpoint else None
        settings = read_settings(source) if source else {}
        if (
            checkpoint
            and source
            and checkpoint not in (source, source / "checkpoints" / "best.ckpt")
        ):
            settings["checkpoint"], source = checkpoint.name, None  # not what the run itself tested
        ranks, test = read_ranks(folder / f"ranks_{i}.npz"), _test(report)
        rows.append(Run(folder, f"{name}: {row}", settings, test, metrics, ranks, {}, source))
    return rows


def _test(facts: dict[str, Any]) -> str:
    """Put `itm.runs.record.split_facts` into words."""
    if "split" not in facts:
        return "unknown split"
    return "{split} of {root}, {images} images, {protocol}".format_map(facts)


def _run_of(checkpoint: Path) -> Path | None:
    """Find the run folder that holds a checkpoint."""
    places = [checkpoint, *checkpoint.parents][:3]
    return next((place for place in places if (place / "run.json").is_file()), None)


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the configuration of a run as flat names; config groups by the name of the choice.

    It is read as plain YAML: references such as ${seed} stay text, and nothing is resolved.
    """
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        return {}
    flat = dict(_flatten(_read_yaml(path)))
    chosen = _read_yaml(folder / ".hydra" / "hydra.yaml")["hydra"]["runtime"]["choices"]
    choices = {key: chosen.get(key) for key in GROUPS}
    return {k: v for k, v in choices.items() if v is not None} | flat


def _read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _flatten(node: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tuple(node) if isinstance(node, list) else node


def read_ranks(path: Path) -> dict[str, np.ndarray] | None:
    """Read the ranks that `itm.runs.record.write_ranks` wrote; None without a file."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in ("i2t", "t2i", "image")}


def read_curves(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read a metrics.csv: column -> (optimiser steps, values), without empty cells."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    curves = {}
    for name in rows[0] if rows else []:
        points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        if points and name not in ("step", "epoch"):
            steps, values = zip(*points, strict=True)
            curves[name] = np.array(steps), np.array(values)
    return curves


def _name(folder: Path, place: Path) -> str:
    relative = folder.relative_to(place).as_posix()
    return place.resolve().name if relative == "." else f"{place.resolve().name}/{relative}"


def _natural(path: Path) -> list[Any]:
    """Sort job 10 after job 9."""
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in path.parts]
