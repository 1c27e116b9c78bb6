"""Find the rows of a feature file that repeat the previous row."""

from __future__ import annotations

import numpy as np

from itm.data.array_file import ArrayFile

SAMPLE = 256  # rows read whole if the first regions agree on one number of repetitions
BLOCK = 64  # rows compared at once
STEP = 4096  # rows whose first regions are compared at once

Rows = np.ndarray | ArrayFile  # (N, R, F) or (N, F)


def repeated_rows(features: Rows) -> np.ndarray:
    """Find the rows (N, R, F) or (N, F) that equal the previous row as a whole: (N,) bool.

    Equal first regions, which are quick to read, make a row a candidate. If all images then have
    the same number of rows, only a sample of the candidates is compared whole, otherwise all.
    """
    repeated = np.zeros(len(features), bool)
    for start in range(1, len(features), STEP):
        first = first_regions(features, start - 1, start + STEP)
        repeated[start : start + STEP] = (first[1:] == first[:-1]).all(-1)
    rows = np.flatnonzero(repeated)
    lengths = np.diff([*np.flatnonzero(~repeated), len(features)])
    sample = rows[:: max(1, len(rows) // SAMPLE)]
    if len(rows) and (lengths == lengths[0]).all() and equals_previous(features, sample).all():
        return repeated
    repeated[rows] = equals_previous(features, rows)
    return repeated


def equals_previous(features: Rows, rows: np.ndarray, distance: int = 1) -> np.ndarray:
    """Compare rows with the previous row, or with one farther before: (n,) bool."""
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    axes = tuple(range(1, features.ndim))
    same = [np.all(features[block] == features[block - distance], axis=axes) for block in blocks]
    return np.concatenate([np.zeros(0, bool), *same])


def period(features: Rows) -> int:
    """Find after how many rows all rows come again, as images stored in rounds; 0 if never.

    Equal first regions, which are quick to read, tell the number; a sample is compared whole.
    """
    rounds = _next_equal(features)
    if not rounds or len(features) % rounds:
        return 0
    rows = np.arange(rounds, len(features))[:: max(1, (len(features) - rounds) // SAMPLE)]
    return rounds if equals_previous(features, rows, rounds).all() else 0


def first_regions(features: Rows, start: int, stop: int) -> np.ndarray:
    """Read the first regions (n, F) of the rows from `start` to `stop`."""
    rows = np.arange(start, min(stop, len(features)))
    if isinstance(features, ArrayFile):
        return features.first_regions(rows)
    return features[rows, 0] if features.ndim == 3 else features[rows]


def _next_equal(features: Rows) -> int:
    """Find the next row with the same first region as row 0; 0 if there is none."""
    own = first_regions(features, 0, 1)
    for start in range(1, len(features), STEP):
        block = first_regions(features, start, start + STEP)
        same = np.flatnonzero((block == own).all(-1))
        if len(same):
            return start + int(same[0])
    return 0
