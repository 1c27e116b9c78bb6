"""Format runs as the tables of a page: results over seeds, and differences from the best."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from itm.metrics.ranking import RECALLS
from itm.runs.comparisons import compare_pairs
from itm.runs.escape import for_markdown, printable
from itm.runs.groups import Groups, average, count, deviation_of, spread, word
from itm.runs.history import COSTS, Run
from itm.runs.kept import shown_path
from itm.runs.report import cost
from itm.runs.tables import markdown_table


def best_of(groups: Mapping[str, list[Run]], by: Sequence[str]) -> dict[str, list[Run]]:
    """Keep the group with the best validation among those that agree in the settings `by`.

    Groups are compared on the seeds that all of them have, if there are any: a candidate that was
    given up after one seed must not win against the mean of three.

    Returns:
        The settings `by` in words -> runs, sorted by these settings.
    """
    kinds: dict[tuple[Any, ...], dict[str, list[Run]]] = {}
    for name, group in groups.items():
        key = tuple(group[0].settings.get(setting) for setting in by)
        kinds.setdefault(key, {})[name] = group
    best = {}
    for key in sorted(kinds, key=lambda key: [(isinstance(x, str), x or 0) for x in key]):
        candidates = kinds[key]
        common = set.intersection(*({run.seed for run in g} for g in candidates.values()))

        def validation(name: str, common: set[Any] = common, of: Any = candidates) -> float:
            found = [run.validation for run in of[name] if not common or run.seed in common]
            known = [x for x in found if x is not None]
            return float(np.mean(known)) if known else -np.inf

        label = " ".join(word(k, x) for k, x in zip(by, key, strict=True) if x is not None)
        best[label] = candidates[max(candidates, key=validation)]
    return best


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
    chosen = _loss_options(groups, by) if by else []
    groups = best_of(groups, by) if by else groups
    head = [*map(_short, (*by, *chosen))] if by else ["`python -m` ..."]
    columns = [*head, "runs", "parameters", "epochs", "seconds"]
    columns += metrics or ["i2t R@1 5 10", "t2i R@1 5 10"]
    shared = [] if by else _shared_options(groups)
    rows = []
    for group in groups.values():
        settings = group[0].settings
        first = (
            [_cell(k, settings.get(k)) for k in (*by, *chosen)] if by else [command(group, shared)]
        )
        size, *costs = ([run.costs.get(name) for run in group] for name in COSTS)
        numbers = ["" if size[0] is None else _size(size[0]), *map(cost, costs)]
        if metrics:
            values = [spread([run.metrics.get(name) for run in group]) for name in metrics]
        else:
            values = [_recalls(group, RECALLS[:3]), _recalls(group, RECALLS[3:])]
        rsums = [spread([r.validation for r in group]), spread([r.rsum for r in group])]
        rows.append([*first, str(count(group)), *numbers, *values, *rsums])
    table = markdown_table([*columns, "val rsum", "rsum"], rows)
    return f"{table}\nEvery `itm.train` also has {_code(shared)}.\n" if shared else table


def _size(millions: float) -> str:
    return f"{millions:.1f} M" if millions >= 0.1 else f"{1000 * millions:.3g} K"


def _loss_options(groups: Groups, by: Sequence[str]) -> list[str]:
    """List the options of a loss among which the validation chose, such as loss.temperature."""
    every = [group[0].settings for group in groups.values()]
    names = dict.fromkeys(key for settings in every for key in settings if key[:5] == "loss.")
    known = {key: {repr(x[key]) for x in every if x.get(key) is not None} for key in names}
    return [key for key in names if len(known[key]) > 1 and key not in by]


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


def _code(words: Sequence[str]) -> str:
    return f"`{printable(shlex.join(words)).replace('|', chr(92) + '|')}`"


def _recalls(group: Sequence[Run], names: Sequence[str]) -> str:
    """Format the means of some recalls, each with its deviation; a dash for an unknown one."""
    cells = []
    for name in names:
        found = [run.metrics[name] for run in group if name in run.metrics]
        around = f"±{deviation_of(found):.1f}" if len(found) > 1 else ""
        cells.append(f"{np.mean(found):.1f}{around}" if found else "-")
    return " ".join(cells)


def difference_table(
    groups: Mapping[str, list[Run]], within: Sequence[str] = (), samples: int = 2000
) -> str | None:
    """Compare the setting with the best validation with every other one that kept its ranks.

    Args:
        groups: name of a setting -> its runs.
        within: settings in which compared groups agree; each combination has a best one.
        samples: number of bootstrap samples; more are drawn for many rows, see `enough_samples`.

    Returns:
        The table, with p values corrected for the number of its rows; None without any row.
    """
    parts: dict[tuple[Any, ...], list[str]] = {}
    for name, group in groups.items():
        if all(run.ranks for run in group):
            key = tuple(group[0].settings.get(setting) for setting in within)
            parts.setdefault(key, []).append(name)
    pairs = []
    for names in parts.values():
        best = max(names, key=lambda name: _validation(groups[name]))
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


def _validation(group: Sequence[Run]) -> float:
    value = average(group, lambda run: run.validation)
    return -np.inf if np.isnan(value) else value


def _short(setting: str) -> str:
    return f"`{setting.removeprefix('data.').removesuffix('._target_')}`"


def _cell(setting: str, value: Any) -> str:
    """Format a setting; a class goes by its own name."""
    if setting.endswith("._target_"):
        value = str(value).rpartition(".")[2]
    return "" if value is None else for_markdown(value)
