"""Average the scores of several matchers; describe an ensemble by its members' training runs."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itm.runs.plain_files import run_of
from itm.runs.run_files import (
    GROUPS,
    SCORED,
    comparable,
    is_aside,
    is_of_run,
    read_results,
    read_settings,
    with_precision,
)

if TYPE_CHECKING:
    from itm.runs.history import Run


def member_names(names: Sequence[str]) -> list[str]:
    """Make names unique: a file may be two members, so its position is appended the second time."""
    unique: dict[str, None] = {}
    for name in names:
        unique[f"{name} #{len(unique) + 1}" if name in unique else name] = None
    return list(unique)


def ensembles(names: Sequence[str], pairs: bool = False) -> dict[str, list[int]]:
    """List the ensembles of some matchers: every two of them, if asked for, and all of them.

    Returns:
        Name of the ensemble -> positions of its members.
    """
    unique, every = member_names(names), range(len(names))
    chosen = combinations(every, 2) if pairs and len(names) > 2 else ()
    found = {f"{unique[i]} + {unique[j]}": [i, j] for i, j in chosen}
    return found | ({f"ensemble of {len(names)}": [*every]} if len(names) > 1 else {})


def with_ensemble(
    names: Sequence[str], matrices: Sequence[np.ndarray], pairs: bool = False
) -> dict[str, np.ndarray]:
    """Name the (N, M) score matrices of the members; add the mean scores of their `ensembles`."""
    named = dict(zip(member_names(names), matrices, strict=True))
    for name, members in ensembles(names, pairs).items():
        kind = np.result_type(np.float32, *(matrices[i].dtype for i in members))
        total = np.array(matrices[members[0]], kind)
        for i in members[1:]:
            total += matrices[i]
        named[name] = total / len(members)
    return named


def members_of(report: dict[str, Any], row: str) -> list[int]:
    """List which checkpoints a row of report.json averages, by position; [] for one matcher."""
    number = len(report.get("checkpoints", []))  # 0 if saved matrices were read
    places = report.get("members", {}).get(row)
    if places is None and row == f"ensemble of {number}":  # also of earlier versions
        places = range(number)
    return list(places or ()) if number else []


def with_members(run: Run, members: Sequence[int], report: dict[str, Any]) -> Run:
    """Add what the members of an ensemble share, and the choices in which they differ.

    `settings` holds the number of members as "ensemble" and, for example, "sgr + saf" as "model",
    "0.1 + 0.2" as "loss.margin". Ensembles whose members have one seed each are grouped over seeds
    like training runs.

    Args:
        run: the row of the ensemble.
        members: positions of the checkpoints in the report.
        report: the evaluation that the row belongs to.

    Returns:
        The run with settings, costs and members; unchanged if a member is not the best checkpoint
        of a training run that still exists, or was trained again since.
    """
    found = []
    for place in members:
        checkpoint = Path(report["checkpoints"][place])
        source = run_of(checkpoint)
        if source is None or checkpoint not in (source, source / "checkpoints" / "best.ckpt"):
            return run
        try:
            settings, results = read_settings(source), read_results(source) or {}
        except (ValueError, OSError):  # the damaged run is listed itself
            return run
        if not is_of_run(report, place, results):
            return run
        found.append((source, with_precision(settings, results), results))
    every = [settings for _, settings, _ in found]
    if not every or not all(every):
        return run
    shared = {
        key: value
        for key, value in every[0].items()
        if all(key in x and comparable(key, x[key]) == comparable(key, value) for x in every)
    }
    apart = [key for key in GROUPS if key not in shared and any(key in x for x in every)]
    if len(apart) == 1 and all(settings.get(apart[0]) for settings in every):
        shared[apart[0]] = " + ".join(str(settings.get(apart[0])) for settings in every)
    elif apart:
        shared["model"] = " + ".join(_choices(settings, {"model", *apart}) for settings in every)
    names = dict.fromkeys(key for settings in every for key in settings)
    for key in names:
        if key not in shared and key not in GROUPS and not is_aside(key):
            shared[key] = " + ".join(str(settings.get(key, "none")) for settings in every)
    costs = {
        key: sum(results[key] for *_, results in found)
        for key in ("parameters_m", "seconds")
        if all(isinstance(results.get(key), int | float) for *_, results in found)
    }
    folders = tuple(source.resolve() for source, *_ in found)
    return replace(run, settings={**shared, "ensemble": len(found)}, costs=costs, members=folders)


def _choices(settings: Mapping[str, Any], keys: Container[str]) -> str:
    """Name some choices of a run, such as "vsepp bert scheduler=cosine"."""
    found = [(key, settings[key]) for key in GROUPS if key in keys and settings.get(key)]
    return " ".join(str(x) if key in GROUPS[:4] else f"{key}={x}" for key, x in found)


def _in_one_order(runs: Sequence[Run]) -> list[Run]:
    """Let ensembles of the same members name them as the first one does: a mean has no order."""
    first: dict[frozenset[Path], Run] = {}
    ordered = []
    for run in runs:
        known = first.setdefault(frozenset(run.members), run) if run.members else run
        if run.members != known.members:
            shared = {k: known.settings[k] for k in run.settings.keys() & known.settings.keys()}
            own = {k: v for k, v in run.settings.items() if k in SCORED}
            run = replace(run, members=known.members, settings={**run.settings, **shared, **own})
        ordered.append(run)
    return ordered


def with_validation(runs: Sequence[Run]) -> list[Run]:
    """Add to each ensemble its rsum on the validation split, if it was evaluated there as well.

    Of several evaluations of a validation split, such as a part of it (`data.limit`) or another
    protocol, one kind counts for all ensembles, else their values would not compare: the one on
    most images, of these the one that most ensembles have.
    """

    def place(run: Run) -> Any:
        root, _, images = run.test.partition(" of ")[2].rpartition(", ")[0].rpartition(", ")
        others = images.partition(" images")[2]  # " with phrases"
        return root, others, *(run.settings.get(name) for name in SCORED)

    runs = _in_one_order(runs)
    tests: dict[Any, list[str]] = {}
    for run in runs:
        if run.members and run.test.startswith(f"{run.settings.get('data.val')} of "):
            tests.setdefault(place(run), []).append(run.test)
    kinds = {
        where: max(found, key=lambda x: (_images(x), found.count(x), x))
        for where, found in tests.items()
    }
    known = {
        (run.members, place(run)): run.rsum
        for run in runs
        if run.members and run.test == kinds.get(place(run))
    }
    return [
        replace(run, validation=known.get((run.members, place(run)), run.validation))
        for run in runs
    ]


def _images(test: str) -> int:
    """Read the number of images from `Run.test`."""
    return int(test.rpartition(" images")[0].rpartition(" ")[2])
