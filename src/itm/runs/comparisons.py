"""Compare settings by paired bootstraps over the test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from itm.metrics.significance import compare, enough_samples, holm, same_queries
from itm.runs.groups import Groups


def compare_pairs(
    groups: Groups,
    pairs: Sequence[tuple[str, str]],
    samples: int,
    shown: Callable[[str], str] = str,
) -> tuple[list[list[str]], int]:
    """Compare pairs of settings whose runs all kept the ranks of the same queries.

    Args:
        groups: name of a setting -> its runs.
        pairs: names of two settings; pairs that cannot be compared are left out.
        samples: number of bootstrap samples; many pairs need more, see `enough_samples`.
        shown: name of a setting -> its name in a row.

    Returns:
        For each pair both names, difference of rsum, 95 % interval, p value corrected for the
        number of pairs (Holm), and whether it is significant; and the number of samples.
    """
    kept = {name: [run.ranks for run in group if run.ranks] for name, group in groups.items()}
    ranks = {name: found for name, found in kept.items() if len(found) == len(groups[name])}
    pairs = [(a, b) for a, b in pairs if a in ranks and b in ranks]
    pairs = [
        (a, b)
        for a, b in pairs
        if all(same_queries(ranks[a][0], other) for other in (*ranks[a], *ranks[b]))
    ]
    samples = enough_samples(samples, len(pairs))
    found = [compare(ranks[a], ranks[b], samples) for a, b in pairs]
    rows = [
        [
            shown(a),
            shown(b),
            f"{difference.value:+.1f}",
            f"{difference.low:+.1f} to {difference.high:+.1f}",
            f"{p:.3f}",
            "different" if p < 0.05 else "not significant",
        ]
        for (a, b), difference, p in zip(pairs, found, holm([d.p for d in found]), strict=True)
    ]
    return rows, samples
