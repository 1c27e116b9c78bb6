"""Read the files of one run: configuration, records, ranks of queries, learning curves.

Runs may come from anywhere, so nothing in them is trusted: references in configurations, such as
${oc.env:HOME}, are not resolved, and a damaged file raises ValueError.
"""

from __future__ import annotations

import csv
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from itm.runs.plain_files import kept_configuration, read_record, read_yaml
from itm.utils.archive import read_npz
from itm.utils.nested import flatten

# Config groups whose choice names a run; the first four are shown without the group's name.
GROUPS = ("model", "loss", "data", "text", "trainer", "callbacks", "optimizer", "scheduler")
# Options that change neither training nor what is measured, such as where it is logged.
ASIDE = ("seed", "resume", "overwrite", "test", "logger")
ASIDE_OPTIONS = (
    "trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.logger",
    "data.cache_words", "data.workers", "data.pin_memory",  # the same order and numbers
)  # fmt: skip
# Options of itm.evaluate that change scores -> their names in report.json.
SCORED = {"evaluate.shortlist": "shortlist", "evaluate.precision": "precision"}
SETTINGS = "settings.yaml"  # of a record (`itm.runs.kept`): flat names and resolved values
CHANGES = "changes"  # in run.json and results.json: options that a run was resumed with
# Options in which 1 is a number of batches, and 1.0 all of them.
BATCHES = re.compile(r"(trainer\.)?(limit_\w+_batches|val_check_interval|overfit_batches)")
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def is_aside(key: str) -> bool:
    """Tell whether an option changes neither training nor what is measured."""
    return key.partition(".")[0] in ASIDE or key in ASIDE_OPTIONS


def comparable(key: str, value: Any) -> str:
    """Write the value of an option so that equal values have equal texts, and others do not.

    Equal numbers are equal, such as 1 and 1.0, except where one counts batches and the other is a
    fraction. Numbers differ from words, and from true and false.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return repr(float(value) if number and not BATCHES.fullmatch(key) else value)


def read_results(folder: Path) -> dict[str, Any] | None:
    """Read results.json of a run of itm.train; None if its last attempt has not finished.

    Every attempt begins with a new run.json. Results of an earlier attempt, which may have had
    other options, do not count.

    Raises:
        ValueError: a damaged record.
    """
    if not (folder / "results.json").is_file():
        return None
    results = read_record(folder / "results.json")
    started = read_record(folder / "run.json") if (folder / "run.json").is_file() else {}
    same = all(results.get(key) == started[key] for key in ("command", "started") if key in started)
    return results if same else None


def metrics_of(record: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Pick the metrics whose names begin with a prefix, without the prefix.

    Raises:
        ValueError: a metric is not a finite number.
    """
    found = {k.removeprefix(prefix): v for k, v in record.items() if k.startswith(prefix)}
    for name, value in found.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (name == "rsum" and not np.isfinite(value)):
            raise ValueError(f"{prefix}{name} is {value!r}, expected a number")
    return {name: float(value) for name, value in found.items()}


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the configuration of a run as flat names; config groups by the name of the choice.

    A value such as ${margin} is replaced by the value of that option. ${seed} and references to
    anything else stay, so that runs with different seeds have equal settings. Options that changed
    when the run was resumed are a setting, too (`read_changes`).

    Raises:
        ValueError: a damaged configuration.
    """
    if (folder / SETTINGS).is_file():
        kept = read_yaml(folder / SETTINGS)
        if not isinstance(kept, dict):
            raise ValueError(f"{SETTINGS} holds a {type(kept).__name__}, expected settings by name")
        return _flat(kept) | read_changes(folder)
    kept = kept_configuration(folder)
    if not kept:
        return {}
    flat = _flat(kept["config"])
    flat = {key: _resolved(value, flat) for key, value in flat.items()}
    node = kept["runtime"].get("choices")
    chosen = node if isinstance(node, dict) else {}
    choices = {key: chosen.get(key) for key in GROUPS}
    return {k: v for k, v in choices.items() if v is not None} | flat | read_changes(folder)


def read_changes(folder: Path) -> dict[str, str]:
    """Read with which other options a run was resumed; {} if it has one setting throughout.

    Such a run is a setting of its own: it was trained neither with the first options nor with the
    last ones.

    Raises:
        ValueError: a damaged record.
    """
    for name in ("run.json", "results.json"):  # a record has the second one only
        if (folder / name).is_file():
            found = read_record(folder / name).get(CHANGES)
            return {CHANGES: "; ".join(map(str, found))} if found and type(found) is list else {}
    return {}


def with_precision(settings: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """Say on which hardware a precision was chosen automatically: GPUs use bfloat16."""
    if settings.get("trainer.precision") != "auto" or "device" not in results:
        return settings
    device = str(results["device"]).partition(" (")[0]  # without the number of threads
    return {**settings, "trainer.precision": f"auto on {device}"}


def is_older(report: dict[str, Any], results: dict[str, Any]) -> bool:
    """Tell whether an evaluation began before the training had ended, as far as is recorded."""
    try:
        if "ended" in results:
            ended = datetime.fromisoformat(results["ended"])
        else:  # an earlier version: the last attempt and the seconds of all, so maybe too late
            began = datetime.fromisoformat(results["started"])
            ended = began + timedelta(seconds=results["seconds"])
        return datetime.fromisoformat(report["started"]) < ended
    except (KeyError, TypeError, ValueError, OverflowError):
        return False  # an earlier version recorded no times


def is_of_run(report: dict[str, Any], place: int, results: dict[str, Any]) -> bool:
    """Tell whether an evaluation measured the weights that their run has tested.

    Records of earlier versions have no weights; their times tell at least whether the run was
    trained again afterwards.

    Args:
        report: content of report.json.
        place: position of the best checkpoint of the run among the checkpoints of the report.
        results: content of results.json of the run.
    """
    measured, tested = report.get("weights"), results.get("weights")
    if isinstance(measured, list) and place < len(measured) and isinstance(tested, str):
        return bool(measured[place] == tested)
    return not is_older(report, results)


def _resolved(value: Any, flat: dict[str, Any]) -> Any:
    for _ in range(10):  # a reference may name another one; a circle ends here
        found = REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if found is None or found[1] == "seed" or found[1] not in flat:
            break
        value = flat[found[1]]
    return value


def _flat(node: Any) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in flatten(node).items()}


def read_ranks(path: Path) -> dict[str, np.ndarray] | None:
    """Read the ranks that `itm.runs.record.write_ranks` wrote; None without a file.

    Raises:
        ValueError: a damaged file.
    """
    if not path.is_file():
        return None
    arrays = read_npz(path)
    names = ("i2t", "t2i", "image")
    if not all(n in arrays and arrays[n].ndim == 1 and arrays[n].dtype.kind == "i" for n in names):
        raise ValueError(f"{path.name} does not hold the ranks of queries ({', '.join(names)})")
    ranks = {name: arrays[name] for name in names}
    images, captions = len(ranks["i2t"]), len(ranks["t2i"])
    owner = ranks["image"]
    if owner.shape != (captions,) or (captions and not 0 <= owner.min() <= owner.max() < images):
        raise ValueError(f"{path.name} does not say which image each of its captions belongs to")
    return ranks


def read_curves(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read a metrics.csv: column -> (optimiser steps, values), without empty cells.

    Cells that are not numbers are left out: a killed run may end in the middle of a line.
    """
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = list(csv.DictReader(file))
    curves = {}
    for name in rows[0] if rows else []:
        if not isinstance(name, str) or name in ("step", "epoch"):
            continue
        points = [(_number(row.get("step")), _number(row.get(name))) for row in rows]
        points = [(step, value) for step, value in points if step is not None and value is not None]
        if points:
            steps, values = zip(*points, strict=True)
            curves[name] = np.array(steps, np.int64), np.array(values, np.float64)
    return curves


def _number(cell: Any) -> float | None:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None
