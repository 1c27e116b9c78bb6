"""Multiply the sparse features of CIDEr-D within a batch, and compute its length factor."""

import numpy as np
from scipy.sparse import coo_array, csr_array

VARIANCE = 72.0  # 2 sigma^2 of the length factor, sigma = 6


def length_factor(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute exp(-(a - b)^2 / 72) by a table, because few different differences occur."""
    difference = np.abs(a - b)
    factors = np.exp(-(np.arange(difference.max(initial=0) + 1) ** 2) / VARIANCE)
    found: np.ndarray = factors[difference]
    return found


def sparse_cosines(hypotheses: csr_array, references: csr_array) -> np.ndarray:
    """Multiply the features of a few captions: (C, features), (S, features) -> (S, C) float32.

    The features of these captions are renumbered, so that the product does not grow with the
    millions of features of the corpus. Features that occur in references only are dropped: most are
    found by their low 16 bits, the rest by a search.
    """
    features, place = np.unique(hypotheses.indices, return_inverse=True)
    glance = np.zeros(2**16, bool)
    glance[features & 0xFFFF] = True
    kept = np.flatnonzero(glance[references.indices & 0xFFFF])
    found = np.searchsorted(features, references.indices[kept])
    hit = features.take(found, mode="clip") == references.indices[kept]
    kept, found = kept[hit], found[hit]

    dense = np.zeros((len(features), hypotheses.shape[0]), np.float32)
    dense[place, _row_of_entry(hypotheses)] = hypotheses.data
    sparse = coo_array(
        (references.data[kept].astype(np.float32), (_row_of_entry(references)[kept], found)),
        shape=(references.shape[0], len(features)),
    )
    product: np.ndarray = sparse.tocsr() @ dense
    return product


def _row_of_entry(matrix: csr_array) -> np.ndarray:
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
