"""Group runs that differ only in the seed, name the groups, and average over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from itm.metrics.ranking import RECALLS
from itm.runs.history import Run
from itm.runs.run_files import GROUPS, is_aside

NAMED = GROUPS[:4]  # choices that need no "model=" in front

Groups = Mapping[str, Sequence[Run]]  # name of a setting -> its runs, one per seed


def differing(runs: Sequence[Run]) -> list[str]:
    """List the settings that vary between runs, except those in `ASIDE`.

    Settings that follow from a choice such as the model or the trainer, for example a published
    learning rate, are left out: naming the choice is enough.
    """
    known = [run for run in runs if run.settings]
    kinds: dict[Any, list[Run]] = {}
    for run in known:
        kinds.setdefault(tuple(run.settings.get(key) for key in GROUPS), []).append(run)
    choices = [key for key in GROUPS if _varies(known, key)]
    names = dict.fromkeys(key for run in known for key in run.settings)
    own = [key for key in names if key not in GROUPS and not is_aside(key)]
    own = [key for key in own if not _follows(known, key)]
    return choices + [key for key in own if any(_varies(kind, key) for kind in kinds.values())]


def _follows(runs: Sequence[Run], key: str) -> bool:
    """Tell whether an option such as trainer.max_epochs repeats max_epochs in every run."""
    short = key.rpartition(".")[2]
    return short != key and all(
        short in run.settings and run.settings.get(key, run.settings[short]) == run.settings[short]
        for run in runs
    )


def _varies(runs: Sequence[Run], key: str) -> bool:
    return len({_comparable(run.settings.get(key)) for run in runs}) > 1


def group_seeds(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs whose whole configuration is equal except for the seed.

    Trainer, callbacks, optimiser, precision and data count; `ASIDE` lists what does not. Of runs
    that repeat each other (`find_repeats`) the first one counts. The group with the best mean
    validation comes first, groups without a validation last, by their test.

    Returns:
        The varying settings in words, such as "vsrn loss.margin=0.1" -> runs. If nothing varies,
        the choices of model, loss and data. A run without settings forms a separate group under its
        name.
    """
    keys = differing(runs)
    groups: dict[Any, list[Run]] = {}
    repeats = find_repeats(runs)
    for run in runs:
        if id(run) not in repeats:
            groups.setdefault(_identity(run), []).append(run)
    named: dict[str, list[Run]] = {}
    for group in sorted(groups.values(), key=_order):
        label = base = _label(group[0], keys)
        number = 2
        while label in named:
            label, number = f"{base} #{number}", number + 1
        named[label] = group
    return named


def _identity(run: Run) -> Any:
    """Make a key that is equal for runs that differ only in the seed."""
    if not run.settings:
        return run.folder, run.name
    items = ((k, v) for k, v in run.settings.items() if v is not None and not is_aside(k))
    return tuple(sorted((key, _comparable(value)) for key, value in items))


def find_repeats(runs: Sequence[Run]) -> dict[int, tuple[Run, Run]]:
    """Find runs that repeat an earlier one: same options, same seed, same results.

    Runs of one seed whose results differ are not repeats; a table counts them, and says how many
    seeds they have.

    Returns:
        id of the repeating run -> (that run, the first one).
    """
    first: dict[Any, Run] = {}
    repeats = {}
    for run in runs:
        scores = tuple(run.metrics.get(name) for name in (*RECALLS, "rsum"))
        key = _identity(run), repr(run.seed), run.members, run.test, run.validation, scores
        if first.setdefault(key, run) is not run:
            repeats[id(run)] = run, first[key]
    return repeats


def tell_repeats(runs: Sequence[Run]) -> str:
    """Say which runs repeat another one and do not count; "" if none does."""
    found = [f"{again.name} repeats {first.name}" for again, first in find_repeats(runs).values()]
    if not found:
        return ""
    shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    return f"same options, seed and results, so counted once: {shown}"


def count(group: Sequence[Run]) -> int | str:
    """Count the runs of a group, see `count_runs`."""
    return count_runs(len(group), len({repr(run.seed) for run in group}))


def count_runs(runs: int, seeds: int) -> int | str:
    """Say how many runs a row averages; runs that repeat a seed are not independent."""
    return runs if seeds == runs else f"{runs} ({seeds} seed{'s'[: seeds != 1]})"


def _comparable(value: Any) -> str:
    """Write a value so that equal numbers are equal, and numbers differ from words."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return repr(float(value) if number else value)


def _order(group: Sequence[Run]) -> tuple[bool, float, float]:
    value, test = average(group, lambda run: run.validation), mean(group, "rsum")
    return bool(np.isnan(value)), 0.0 if np.isnan(value) else -value, -test


def _label(run: Run, keys: Sequence[str]) -> str:
    if not run.settings:
        return run.name
    given = {key: run.settings.get(key) for key in keys}
    words = [word(key, value) for key, value in given.items() if value is not None]
    if not keys:
        words = [str(run.settings[key]) for key in NAMED[:3] if key in run.settings]
    return " ".join(words) or ("default" if keys else run.name)


def word(key: str, value: Any) -> str:
    """Name a setting; a class goes by its own name, without its module."""
    if key in NAMED:
        return str(value)
    if key.endswith("._target_"):
        return f"{key.removesuffix('._target_')}={str(value).rpartition('.')[2]}"
    return f"{key}={value}"


def average(group: Sequence[Run], value: Callable[[Run], float | None]) -> float:
    """Average over the runs of a group that have a value; NaN if no run has one."""
    found = [x for x in map(value, group) if x is not None]
    return float(np.mean(found)) if found else float("nan")


def mean(group: Sequence[Run], metric: str) -> float:
    """Average a metric over the runs of a group that have it; NaN if no run has it."""
    return average(group, lambda run: run.metrics.get(metric))


def deviation(group: Sequence[Run], metric: str) -> float:
    """Compute the standard deviation of a metric over seeds (n - 1); NaN for a single run."""
    return deviation_of([run.metrics[metric] for run in group if metric in run.metrics])


def deviation_of(values: Sequence[float]) -> float:
    """Compute the standard deviation of numbers (n - 1); NaN for fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def spread(values: Sequence[float | None], digits: int = 1) -> str:
    """Format mean and deviation of the numbers that are known, such as "410.2 ± 1.3"."""
    found = [x for x in values if x is not None]
    if not found:
        return ""
    around = deviation_of(found)
    value = f"{np.mean(found):.{digits}f}"
    return value if np.isnan(around) else f"{value} ± {around:.{digits}f}"
