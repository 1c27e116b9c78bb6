"""Format runs as the tables of a page: results over seeds, and differences from the best."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from itm.metrics.ranking import RECALLS
from itm.runs.comparisons import compare_pairs
from itm.runs.escape import for_markdown, printable
from itm.runs.groups import (
    Groups,
    average,
    averaged,
    count,
    deviation_of,
    differing,
    key_of,
    labels_of,
    some_of,
    unique,
    validation_in_words,
    values_in_words,
)
from itm.runs.history import COSTS, Run
from itm.runs.kept import shown_path
from itm.runs.report import cost, fastest
from itm.runs.run_files import CHANGES
from itm.runs.tables import markdown_table


def best_of(groups: Mapping[str, list[Run]], by: Sequence[str]) -> dict[str, list[Run]]:
    """Keep the group with the best validation among those that agree in the settings `by`.

    Groups are compared on the seeds that all of them have, if there are any.

    Returns:
        The settings `by` in words -> runs, sorted by these settings.

    Raises:
        ValueError: several groups agree in the settings `by`, and none has a validation.
    """
    chosen = [_chosen(names, groups, by) for names in _candidates(groups, by).values()]
    chosen.sort(key=lambda name: [_sortable(groups[name][0].settings.get(key)) for key in by])
    labels = unique(labels_of([groups[name][0] for name in chosen], by))
    return {label: groups[name] for label, name in zip(labels, chosen, strict=True)}


def _candidates(groups: Groups, by: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    """List the names of the groups that agree in the settings `by`."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for name, group in groups.items():
        kinds.setdefault(key_of(group[0], by), []).append(name)
    return kinds


def _chosen(names: Sequence[str], groups: Groups, by: Sequence[str]) -> str:
    """Choose the group with the best validation; one group needs none."""
    if len(names) == 1:
        return names[0]
    values = _validations(names, groups)
    if not values:
        raise ValueError(
            f"by={','.join(by)}: nothing chooses between {' and '.join(names[:3])}: none of their "
            "runs has a validation of the whole split, and the test must not choose; name in by= "
            "what they differ in"
        )
    return max(values, key=values.__getitem__)


def _validations(names: Sequence[str], groups: Groups) -> dict[str, float]:
    """Average the validations of groups, on the seeds that all of them have, if there are any.

    A candidate that was given up after one seed must not win against the mean of three. Groups
    without a validation are left out.
    """
    runs = {name: [run for run in groups[name] if run.choice is not None] for name in names}
    runs = {name: known for name, known in runs.items() if known}
    seeds = [{run.seed for run in known} for known in runs.values()]
    common = set.intersection(*seeds) if seeds else set()
    if common:
        runs = {name: [x for x in known if x.seed in common] for name, known in runs.items()}
    return {name: average(known, lambda run: run.choice) for name, known in runs.items()}


def _sortable(value: Any) -> tuple[int, float, str]:
    """Sort numbers, then words, then the rest; a missing value is sorted as 0."""
    if isinstance(value, str):
        return 1, 0.0, value
    if value is None or isinstance(value, int | float):
        return 0, value or 0.0, ""
    return 2, 0.0, f"{type(value).__name__} {value!r}"


def result_table(
    groups: Mapping[str, list[Run]], by: Sequence[str] = (), metrics: Sequence[str] = ()
) -> str:
    """Tabulate settings: costs, metrics, and rsum of validation and test, over seeds.

    Args:
        groups: name of a setting -> its runs.
        by: settings that name a row; the validation chooses among the others (`best_of`). Empty: a
            row per setting, named by its command; what all trainings share stands below.
        metrics: names of the columns; empty = the recalls.
    """
    chosen = _chosen_options(groups, by) if by else []
    groups = best_of(groups, by) if by else groups
    head = [*map(_short, (*by, *chosen))] if by else ["`python -m` ..."]
    columns = [*head, "runs", "parameters", "epochs", "seconds"]
    columns += metrics or ["i2t R@1 5 10", "t2i R@1 5 10"]
    shared = [] if by else _shared_options(groups)
    heads = (
        _setting_cells([group[0] for group in groups.values()], [*by, *chosen])
        if by
        else [[_command_cell(group, shared)] for group in groups.values()]
    )
    rows = []
    for first, group in zip(heads, groups.values(), strict=True):
        size, epochs, seconds = ([run.costs.get(name) for run in group] for name in COSTS)
        numbers = ["" if size[0] is None else _size(size[0]), cost(epochs), fastest(seconds)]
        if metrics:
            values = [averaged([run.metrics.get(name) for run in group]) for name in metrics]
        else:
            values = [_recalls(group, RECALLS[:3]), _recalls(group, RECALLS[3:])]
        rsums = [validation_in_words(group), averaged([run.rsum for run in group])]
        rows.append([*first, str(count(group)), *numbers, *values, *rsums])
    table = markdown_table([*columns, "val rsum", "rsum"], rows)
    return f"{table}\nEvery `itm.train` also has {_code(shared)}.\n" if shared else table


def _size(millions: float) -> str:
    return f"{millions:.1f} M" if millions >= 0.1 else f"{1000 * millions:.3g} K"


def _chosen_options(groups: Groups, by: Sequence[str]) -> list[str]:
    """List the options among which the validation chose, and changes on the way.

    They are the options of the losses in which any rows differ, such as loss.temperature, and all
    others in which the candidates for a row do.
    """
    every = [group[0].settings for group in groups.values()]
    names = dict.fromkeys(key for settings in every for key in settings if key[:5] == "loss.")
    known = {key: {repr(x[key]) for x in every if x.get(key) is not None} for key in names}
    found = dict.fromkeys(key for key in names if len(known[key]) > 1)
    for candidates in _candidates(groups, by).values():
        if len(candidates) > 1:
            found |= dict.fromkeys(differing([groups[name][0] for name in candidates]))
    found |= {CHANGES: None} if any(CHANGES in settings for settings in every) else {}
    return [key for key in found if key not in by]


LEFT_OUT = ("seed=", "sweep=", "hydra.", "resume=", "overwrite=")


def _shared_options(groups: Groups) -> list[str]:
    """List the options that the commands of all trainings share, if there are at least two."""
    kinds = [_words(g[0]) for g in groups.values() if not g[0].settings.get("ensemble")]
    if len(kinds) < 2:
        return []
    return [word for word in kinds[0][1:] if all(word in words for words in kinds)]


def _words(run: Run) -> list[str]:
    """Split the command of a run, from the name of its module, without seed and folders.

    How often a run was interrupted does not matter for one that repeats it.
    """
    words = shlex.split(shown_path(run.record.get("command", "")))[2:]
    return [word for word in words if not word.startswith(LEFT_OUT)]


def command(group: Sequence[Run], shared: Sequence[str] = ()) -> str:
    """Write the command that repeats all runs of a group, such as `itm.train -m ... seed=0,1`.

    Args:
        group: runs of one setting.
        shared: options that are left out.
    """
    words = [word for word in _words(group[0]) if word not in shared]
    if not words:
        return for_markdown(group[0].name)
    if not group[0].settings.get("ensemble"):
        seeds = sorted({str(run.seed) for run in group})
        words = [words[0], *(["-m"] if len(seeds) > 1 else []), *words[1:]]
        words.append(f"seed={','.join(seeds)}")
    return _code(words)


def _command_cell(group: Sequence[Run], shared: Sequence[str]) -> str:
    """Name a row by its command, and say what changed on the way: the command does not tell."""
    changes = group[0].settings.get(CHANGES)
    return command(group, shared) + (f" ({for_markdown(changes)})" if changes else "")


def _code(words: Sequence[str]) -> str:
    return f"`{printable(shlex.join(words)).replace('|', chr(92) + '|')}`"


def _recalls(group: Sequence[Run], names: Sequence[str]) -> str:
    """Format the means of some recalls, each with its deviation; a dash for an unknown one."""
    cells = []
    for name in names:
        found = [run.metrics[name] for run in group if name in run.metrics]
        around = f"±{deviation_of(found):.1f}" if len(found) > 1 else ""
        cells.append(f"{np.mean(found):.1f}{around}" if found else "-")
    known = sum(all(name in run.metrics for name in names) for run in group)
    return " ".join(cells) + (some_of(known, len(group)) if {*cells} != {"-"} else "")


def difference_table(
    groups: Mapping[str, list[Run]], within: Sequence[str] = (), samples: int = 2000
) -> str | None:
    """Compare the setting with the best validation with every other one, where ranks were kept.

    Args:
        groups: name of a setting -> its runs.
        within: settings in which compared groups agree; each combination has a best one.
        samples: number of bootstrap samples; more are drawn for many rows, see `enough_samples`.

    Returns:
        The table, with p values corrected for the number of its rows; None without any row.

    Raises:
        ValueError: no setting can be called the best, or the best one has not kept its ranks.
    """
    pairs = []
    for names in _candidates(groups, within).values():
        best = _best(names, groups) if len(names) > 1 else names[0]
        pairs += [(best, x) for x in names if x != best]
    short = _without_usual([*groups])
    named = {x: f"{for_markdown(short[x])} ({count(groups[x])})" for x in groups}
    rows, _ = compare_pairs(groups, pairs, samples, named.__getitem__)
    columns = ["best (runs)", "other (runs)", "rsum", "95 % interval", "p (Holm)", "5 % level"]
    return markdown_table(columns, rows) if rows else None


def _without_usual(names: Sequence[str]) -> dict[str, str]:
    """Leave out what more than half of the names share, such as scheduler=step, if they differ."""
    kinds = [name.split() for name in names]
    every = {word for words in kinds for word in words if "=" in word}
    usual = {word for word in every if 2 * sum(word in words for words in kinds) > len(kinds)}
    short = [" ".join(word for word in words if word not in usual) for words in kinds]
    kept = all(short) and len({*short}) == len(names)
    return dict(zip(names, short if kept else names, strict=True))


def _best(names: Sequence[str], groups: Groups) -> str:
    """Choose the setting with the best validation, for a comparison with the others."""
    values = _validations(names, groups)
    listed = " and ".join(names[:3])
    if not values:
        raise ValueError(
            f"none of {listed} has a validation of the whole split, so none of them can be called "
            "the best: the test must not choose"
        )
    best = max(values, key=values.__getitem__)
    if not all(run.ranks for run in groups[best]) and any(
        all(run.ranks for run in groups[name]) for name in names
    ):
        raise ValueError(
            f"{best} is the best of {listed} on validation, but a run of it has no ranks.npz, so "
            "nothing can be compared with it: leave its folders out of the patterns"
        )
    return best


def _short(setting: str) -> str:
    return f"`{setting.removeprefix('data.').removesuffix('._target_')}`"


def _setting_cells(runs: Sequence[Run], keys: Sequence[str]) -> list[list[str]]:
    """Make the first cells of each row: its settings."""
    columns = [values_in_words(key, [run.settings.get(key) for run in runs]) for key in keys]
    return [[for_markdown(text) for text in row] for row in zip(*columns, strict=True)]
