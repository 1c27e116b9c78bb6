"""Test whether two matchers differ by more than the choice of test queries explains.

The test is a paired bootstrap over images: images are drawn with replacement, each with all its
captions, because the captions of one image are not independent queries. Both matchers answer the
same drawn queries. The bootstrap measures the variance due to the test set; several seeds measure
the variance of training.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from itm.metrics.ranking import KS

# 0-based "i2t" (I,) and "t2i" (C,), -1 = no answer; "image" (C,), row of each caption's image.
QueryRanks = dict[str, np.ndarray]


class Difference(NamedTuple):
    """A difference of rsum: its value, the bounds of its 95 % interval, and the p value."""

    value: float
    low: float
    high: float
    p: float


def compare(
    first: Sequence[QueryRanks], second: Sequence[QueryRanks], samples: int = 2000, seed: int = 0
) -> Difference:
    """Compare the rsum of two matchers, first minus second, on the same queries.

    Args:
        first: ranks of one run, or of several seeds, whose recalls are averaged.
        second: the same.
        samples: number of bootstrap samples; the smallest possible p is 2 / (samples + 1).
        seed: seed of the samples.

    Returns:
        The difference with its percentile interval and its two-sided p: twice the share of samples
        at zero or beyond it, with one sample added as usual.

    Raises:
        ValueError: a side is empty, or the runs answered different queries.
    """
    every = [*first, *second]
    if not first or not second:
        raise ValueError("compare two sides with the ranks of at least one run each")
    if not all(same_queries(every[0], ranks) for ranks in every):
        raise ValueError(
            "these runs answered different queries and cannot be compared: use runs on the same "
            "split"
        )
    a, b = (np.mean([hits(ranks) for ranks in side], axis=0) for side in (first, second))
    queries = query_counts(every[0])
    value = float((100 * (a - b).sum(0) / queries.sum(0)).sum())
    drawn = resample(a - b, queries, samples, seed)
    low, high = np.percentile(drawn, [2.5, 97.5])
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return Difference(value, float(low), float(high), float(min(1, 2 * (tail + 1) / (samples + 1))))


def enough_samples(samples: int, tests: int) -> int:
    """Raise a number of samples so that Holm's correction leaves room for a p below 0.05.

    The smallest p, 2 / (samples + 1), is multiplied by up to the number of tests; with 100 samples
    per test it stays below 0.02.
    """
    return max(samples, 100 * tests)


def interval(runs: Sequence[QueryRanks], samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Estimate the 95 % interval of a matcher's rsum over test sets of the same distribution."""
    mean = np.mean([hits(ranks) for ranks in runs], axis=0)
    low, high = np.percentile(resample(mean, query_counts(runs[0]), samples, seed), [2.5, 97.5])
    return float(low), float(high)


def hits(ranks: QueryRanks) -> np.ndarray:
    """Count each image's queries with a rank within 1, 5, 10: (I, 6) float, i2t before t2i."""
    images = len(ranks["i2t"])
    out = np.empty((images, 2 * len(KS)))
    for column, k in enumerate(KS):
        out[:, column] = (ranks["i2t"] >= 0) & (ranks["i2t"] < k)
        right = (ranks["t2i"] >= 0) & (ranks["t2i"] < k)
        found = np.bincount(ranks["image"], right, images)
        out[:, len(KS) + column] = found
    return out


def query_counts(ranks: QueryRanks) -> np.ndarray:
    """Count each image's queries (the image and its captions): (I, 6) float, columns as `hits`."""
    images = len(ranks["i2t"])
    captions = np.bincount(ranks["image"], minlength=images)
    return np.repeat(np.stack([ranks["i2t"] >= 0, captions], 1).astype(float), len(KS), axis=1)


def resample(hits: np.ndarray, queries: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Draw images with replacement and sum their recalls: (samples,) rsum in percent.

    Args:
        hits: (I, 6) hits of each image, or the difference of two matchers' hits.
        queries: (I, 6) number of queries of each image.
        samples: how often I images are drawn.
        seed: seed of the draws.
    """
    rng, images = np.random.default_rng(seed), len(hits)
    out = np.empty(samples)
    for i in range(samples):
        times = np.bincount(rng.integers(images, size=images), minlength=images)  # (I,)
        asked = times @ queries
        out[i] = 100 * np.sum((times @ hits) / np.maximum(asked, 1))
    return out


def same_queries(a: QueryRanks, b: QueryRanks) -> bool:
    """Tell whether two runs have the same number of images and the same caption-image rows."""
    return len(a["i2t"]) == len(b["i2t"]) and np.array_equal(a["image"], b["image"])


def holm(values: Sequence[float]) -> list[float]:
    """Correct p values for multiple tests (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(values, kind="stable")
    corrected, largest = [0.0] * len(values), 0.0
    for place, at in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - place) * values[at]))
        corrected[at] = largest
    return corrected
