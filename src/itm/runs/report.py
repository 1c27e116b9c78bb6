"""Make the sections of a report over many runs: results, differences, costs, all runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from itm.metrics.ranking import RECALLS
from itm.metrics.significance import interval, same_queries
from itm.runs.comparisons import compare_pairs
from itm.runs.groups import Groups, averaged, count, tell_repeats, validation_in_words
from itm.runs.history import COSTS, Run, Unfinished

NCS = ("i2t_ncs_10", "t2i_ncs_10")  # shown beside the recalls if runs have them
NOTE = (
    "Sorted by the validation split; rows without a validation of the whole split come last, by "
    "the test. ± is the standard deviation over runs that differ only in the seed; a number that "
    "is known for some of the runs says for how many. The interval is that of rsum on other images "
    "of the same kind (95 %, bootstrap over images with all their captions)."
)


class Section(NamedTuple):
    """A part of a report: a heading, and below it text, a table and a picture, if given."""

    title: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    picture: Path | None = None


def results(groups: Groups, test: str, samples: int) -> Section:
    """Tabulate all settings in the order of `groups`.

    Args:
        groups: the runs on one test split.
        test: its name.
        samples: number of bootstrap samples.
    """
    rows = []
    metrics = shown_metrics(groups)
    for name, group in groups.items():
        kept = [run.ranks for run in group if run.ranks]
        around = ""
        if len(kept) == len(group) and all(same_queries(kept[0], ranks) for ranks in kept):
            around = "{:.1f} to {:.1f}".format(*interval(kept, samples))
        numbers = [averaged([run.metrics.get(metric) for run in group]) for metric in metrics]
        validation = validation_in_words(group)
        rsum = averaged([run.metrics.get("rsum") for run in group])
        rows.append([name, count(group), rsum, validation, around, *numbers])
    columns = ["runs equal up to the seed", "runs", "rsum", "val rsum", "95 % interval"]
    return Section(f"Results on {test}", NOTE, [*columns, *metrics], rows)


def shown_metrics(groups: Groups) -> list[str]:
    """List the metrics beside rsum that a table has columns for."""
    every = [run for group in groups.values() for run in group]
    return [name for name in (*RECALLS, *NCS) if any(name in run.metrics for run in every)]


def costs(groups: Groups) -> Section:
    """Tabulate parameters, epochs, seconds, hardware and the exact command of each setting."""
    rows = []
    for name, group in groups.items():
        sizes, epochs, seconds = ([run.costs.get(key) for run in group] for key in COSTS)
        devices = dict.fromkeys(run.record["device"] for run in group if "device" in run.record)
        commands = [run.record["command"] for run in group if "command" in run.record]
        more = f" (and {len(commands) - 1} more)" if len(commands) > 1 else ""
        small = any(size is not None and size < 0.1 for size in sizes)
        numbers = [cost(sizes, 4 if small else 2), cost(epochs), fastest(seconds)]
        rows.append([name, *numbers, ", ".join(devices), (commands or [""])[0] + more])
    columns = ["runs", "parameters, M", "epochs", "seconds", "hardware", "command"]
    text = (
        "Means over the runs of a row; seconds by the clock, of its fastest run, because other "
        "work and pauses only add to them. The command is that of the first run."
    )
    return Section("Cost", text, columns, rows if any(any(row[1:]) for row in rows) else [])


def cost(values: Sequence[float | None], digits: int = 0) -> str:
    """Format a number that is usually the same in all runs."""
    return averaged(values[:1] if len(set(values)) == 1 else values, digits)


def fastest(seconds: Sequence[float | None]) -> str:
    """Format the duration of the run that other work on the machine and pauses delayed least."""
    known = [value for value in seconds if value is not None]
    return f"{min(known):.0f}" if known else ""


def differences(groups: Groups, samples: int) -> Section | None:
    """Compare every pair of settings: difference of rsum, its interval, its corrected p value.

    Many pairs need more samples than given, see `enough_samples`.

    Returns:
        The section; None if fewer than two settings kept the ranks of all their runs.
    """
    pairs = list(combinations(groups, 2))
    rows, samples = compare_pairs(groups, pairs, samples)
    if not rows:
        return None
    text = (
        "rsum of the first minus rsum of the second on the same resampled test images "
        f"({samples} samples). p is corrected for the number of pairs (Holm). The seeds of one "
        "setting are averaged, so these intervals leave out the variance of training: see ± above."
    )
    columns = ["first", "second", "rsum", "95 % interval", "p", "5 % level"]
    return Section("Differences", text, columns, rows)


def every_run(runs: Sequence[Run]) -> Section:
    """List every run with its seed, results, command and folder; best validation first."""
    rows = [
        [
            run.name,
            "" if run.seed is None else str(run.seed),
            f"{run.rsum:.1f}",
            validation_in_words([run]),
            run.test,
            run.record.get("command", ""),
            str(run.folder),
        ]
        for run in sorted(runs, key=lambda run: (-(run.choice or 0), -run.rsum))
    ]
    columns = ["run", "seed", "rsum", "val rsum", "measured on", "command", "folder"]
    text = tell_repeats(runs)
    return Section("All runs", text[:1].upper() + text[1:], columns, rows)


def unfinished_runs(unfinished: Sequence[Unfinished]) -> Section:
    """List the runs without results: failed, damaged, or not finished."""
    rows = [[str(folder), reason] for folder, reason in unfinished]
    return Section(f"{len(rows)} runs without results", "", ["folder", "reason"], rows)
