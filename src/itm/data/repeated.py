"""Find the rows of a feature file that repeat the previous row."""

import numpy as np

SAMPLE = 256  # rows read whole if the first regions agree on one number of repetitions
BLOCK = 64  # rows compared at once


def repeated_rows(features: np.ndarray) -> np.ndarray:
    """Find the rows (N, R, F) or (N, F) that equal the previous row as a whole: (N,) bool.

    Equal first regions, which are quick to read, make a row a candidate. If all images then have
    the same number of rows, only a sample of the candidates is compared whole, otherwise all.
    """
    first = features[:, 0] if features.ndim == 3 else features
    repeated = np.zeros(len(features), bool)
    repeated[1:] = np.all(np.asarray(first[1:]) == np.asarray(first[:-1]), axis=-1)
    rows = np.flatnonzero(repeated)
    lengths = np.diff([*np.flatnonzero(~repeated), len(features)])
    sample = rows[:: max(1, len(rows) // SAMPLE)]
    if len(rows) and (lengths == lengths[0]).all() and equals_previous(features, sample).all():
        return repeated
    repeated[rows] = equals_previous(features, rows)
    return repeated


def equals_previous(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Compare rows with the previous row: (n,) bool."""
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    axes = tuple(range(1, features.ndim))
    same = [np.all(features[block] == features[block - 1], axis=axes) for block in blocks]
    return np.concatenate([np.zeros(0, bool), *same])
