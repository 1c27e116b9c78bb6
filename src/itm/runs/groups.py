"""Group runs that differ only in the seed, name the groups, and average over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from itm.metrics.ranking import RECALLS
from itm.runs.history import Run
from itm.runs.merging import join
from itm.runs.run_files import CHANGES, GROUPS, comparable, is_aside

NAMED = GROUPS[:4]  # choices that need no "model=" in front

Groups = Mapping[str, Sequence[Run]]  # name of a setting -> its runs, one per seed


def differing(runs: Sequence[Run]) -> list[str]:
    """List the settings that vary between runs, except those in `ASIDE`.

    Settings that follow from a choice such as the model or the trainer, for example a published
    learning rate, are left out: naming the choice is enough. Options that changed when a run was
    resumed follow from nothing and are always listed, last.
    """
    known = [run for run in runs if run.settings]
    kinds: dict[Any, list[Run]] = {}
    for run in known:
        kinds.setdefault(key_of(run, GROUPS), []).append(run)
    choices = [key for key in GROUPS if _varies(known, key)]
    names = dict.fromkeys(key for run in known for key in run.settings)
    own = [key for key in names if key not in GROUPS and not is_aside(key)]
    own = [key for key in own if key != CHANGES and not _follows(known, key)]
    own = [key for key in own if any(_varies(kind, key) for kind in kinds.values())]
    return [*choices, *own, *([CHANGES] if CHANGES in names else [])]


def key_of(run: Run, keys: Sequence[str]) -> tuple[str, ...]:
    """Make a key of some settings that is equal for equal values only, also for lists."""
    return tuple(comparable(key, run.settings.get(key)) for key in keys)


def _follows(runs: Sequence[Run], key: str) -> bool:
    """Tell whether an option such as trainer.max_epochs repeats max_epochs in every run."""
    short = key.rpartition(".")[2]
    return short != key and all(
        short in run.settings
        and comparable(key, run.settings.get(key, run.settings[short]))
        == comparable(key, run.settings[short])
        for run in runs
    )


def _varies(runs: Sequence[Run], key: str) -> bool:
    return len({key_of(run, [key]) for run in runs}) > 1


def group_seeds(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs whose whole configuration is equal except for the seed.

    Trainer, callbacks, optimiser, precision and data count; `ASIDE` lists what does not. Of runs
    that repeat each other (`find_repeats`) the first one counts, with the metrics of all. The group
    with the best mean validation comes first, groups without a whole validation last, by their
    test.

    Returns:
        The varying settings in words, such as "vsrn loss.margin=0.1" -> runs. If nothing varies,
        the choices of model, loss and data. A run without settings forms a separate group under its
        name.
    """
    keys = differing(runs)
    groups: dict[Any, list[Run]] = {}
    repeats = find_repeats(runs)
    whole = {id(run): run for run in runs}
    for again, first in repeats.values():
        whole[id(first)] = join(whole[id(first)], again)
    for run in runs:
        if id(run) not in repeats:
            groups.setdefault(_identity(run), []).append(whole[id(run)])
    ordered = sorted(groups.values(), key=_order)
    labels = _labels([group[0] for group in ordered], keys)
    return dict(zip(unique(labels), ordered, strict=True))


def unique(labels: Sequence[str]) -> list[str]:
    """Number labels that are equal: "vsrn", "vsrn #2"."""
    found: dict[str, None] = {}
    for base in labels:
        label, number = base, 2
        while label in found:
            label, number = f"{base} #{number}", number + 1
        found[label] = None
    return [*found]


def _identity(run: Run) -> Any:
    """Make a key that is equal for runs that differ only in the seed."""
    if not run.settings:
        return run.folder, run.name
    items = ((k, v) for k, v in run.settings.items() if v is not None and not is_aside(k))
    return tuple(sorted((key, comparable(key, value)) for key, value in items))


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


def _order(group: Sequence[Run]) -> tuple[bool, float, float]:
    value, test = average(group, lambda run: run.choice), mean(group, "rsum")
    return bool(np.isnan(value)), 0.0 if np.isnan(value) else -value, -test


def _labels(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """Name runs by settings; by the choices of model, loss and data if nothing else varies."""
    varies = bool({*keys} - {CHANGES})
    labels = labels_of(runs, keys if varies else [*NAMED[:3], *keys])
    default = "default" if varies else ""
    return [
        (label or default or run.name) if run.settings else run.name
        for run, label in zip(runs, labels, strict=True)
    ]


def labels_of(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """Name runs by some settings; those that are missing are left out."""
    columns = [values_in_words(key, [run.settings.get(key) for run in runs]) for key in keys]
    labels = []
    for cells in zip(*columns, strict=True) if keys else [()] * len(runs):
        named = [_named(key, text) for key, text in zip(keys, cells, strict=True) if text]
        labels.append(" ".join(named))
    return labels


def _named(key: str, text: str) -> str:
    return text if key in NAMED else f"{key.removesuffix('._target_')}={text}"


def values_in_words(key: str, values: Sequence[Any]) -> list[str]:
    """Write the values of a setting so that different ones differ; "" for None.

    A class goes by its own name, without its module, unless two classes share it.
    """
    target = key.endswith("._target_")
    kinds: dict[str, set[str]] = {}

    def short(value: Any) -> str:
        return str(value).rpartition(".")[2] if target else str(value)

    def shown(value: Any) -> str:
        if value is None:
            return ""
        if short(value) and len(kinds[short(value)]) == 1:
            return short(value)
        return str(value) if target else repr(value)

    for value in values:
        kinds.setdefault(short(value), set()).add(comparable(key, value))
    return [shown(value) for value in values]


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


def averaged(values: Sequence[float | None], digits: int = 1) -> str:
    """Format the `spread` of a number over runs; if some lack it, say how many have it.

    Examples:
        >>> averaged([410.2, None, None])
        '410.2 (1 of 3)'
    """
    known = sum(value is not None for value in values)
    return spread(values, digits) + (some_of(known, len(values)) if known else "")


def some_of(known: int, number: int) -> str:
    """Say of how many runs something is known, if not of all."""
    return f" ({known} of {number})" if known < number else ""


def validation_in_words(group: Sequence[Run]) -> str:
    """Format the validation of a group; one that scored a part of the split says so."""
    part = any("val" in run.partial and run.validation is not None for run in group)
    return averaged([run.validation for run in group]) + (" (part)" if part else "")
