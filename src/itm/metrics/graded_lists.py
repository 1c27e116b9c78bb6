"""Ranked lists with the relevance of their items, from which graded metrics are computed."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from itm.metrics.protocols import Rows
from itm.metrics.ranking import Matrix, caption_rows, to_numpy, topk

BLOCK = 1024  # captions checked at once


def as_relevance(values: ArrayLike | Tensor, captions: int, images: int) -> np.ndarray:
    """Check a matrix of relevance; integers become float64, because negated bytes wrap around.

    Args:
        values: (M, N) relevance of caption m for image n, finite and >= 0.
        captions: M.
        images: N.

    Raises:
        ValueError: the matrix has another shape, holds no numbers, or holds negative, infinite or
            NaN values.
    """
    matrix = to_numpy(values) if isinstance(values, Tensor) else np.asarray(values)
    shape = (captions, images)
    if matrix.shape != shape:
        hint = ": transpose it" if matrix.shape == shape[::-1] else ""
        raise ValueError(f"relevance must be captions x images, {shape}, got {matrix.shape}{hint}")
    if matrix.dtype.kind not in "fiub":
        raise ValueError(f"relevance must hold numbers, got {matrix.dtype}")
    matrix = matrix if matrix.dtype.kind == "f" else matrix.astype(np.float64)
    for start in range(0, captions, BLOCK):
        block = matrix[start : start + BLOCK]
        right = (block >= 0).all(1) & (block < np.inf).all(1)
        if not right.all():
            row = int(right.argmin())
            kind = "negative" if np.isfinite(block[row]).all() else "NaN or infinite"
            advice = ": graded metrics add relevance up; 0 is not related" * (kind == "negative")
            raise ValueError(f"relevance of caption {start + row} holds {kind} values{advice}")
    return matrix


class GradedLists(NamedTuple):
    """Ranked lists of one direction, best first: Q queries, T places."""

    direction: str
    relevance: np.ndarray  # (Q, G) view of the given matrix
    query_image: np.ndarray  # (Q,) image of each query
    item_image: np.ndarray  # (G,) image of each gallery item
    items: np.ndarray  # (Q, T) gallery items in the order of the scores
    ideal: np.ndarray  # (Q, T) gallery items in the order of their relevance

    def gain(self, items: np.ndarray) -> np.ndarray:
        """Look up the relevance (Q, T) of each query's items (Q, T)."""
        gain: np.ndarray = self.relevance[np.arange(len(items))[:, None], items]
        return gain

    def own(self, items: np.ndarray) -> np.ndarray:
        """Mark the items (Q, T) of the query's own image."""
        own: np.ndarray = self.item_image[items] == self.query_image[:, None]
        return own

    def cut(self, items: np.ndarray, k: int, include_own: bool) -> tuple[np.ndarray, np.ndarray]:
        """Take the first k items (Q, k), own items included or not, and mark the valid ones."""
        own = self.own(items)
        if include_own:
            return items[:, :k], np.ones_like(own[:, :k])
        order = np.argsort(own, axis=1, kind="stable")[:, :k]  # other items first
        return np.take_along_axis(items, order, 1), ~np.take_along_axis(own, order, 1)


def graded_lists(
    scores: Matrix, relevance: ArrayLike | Tensor, caption_image: ArrayLike | None, k: int
) -> tuple[GradedLists, GradedLists]:
    """Rank deep enough to keep k items after the own items are removed.

    Args:
        scores: (N, M) similarity.
        relevance: (M, N) relevance of caption m for image n, >= 0.
        caption_image: (M,) row of each caption's image; None means five captions per image.
        k: length of the lists.

    Returns:
        The lists from image to text and from text to image.

    Raises:
        ValueError: see `as_relevance` and `caption_rows`.
    """
    scores = to_numpy(scores)
    n, m = scores.shape
    relevance = as_relevance(relevance, m, n)
    own = caption_rows(caption_image, n, m)
    per_image = np.bincount(own, minlength=n)
    queries: Rows = slice(None) if per_image.all() else np.flatnonzero(per_image)
    images = np.arange(n)

    i2t, i2t_relevance, depth = scores[queries], relevance.T[queries], k + int(per_image.max())
    return (
        GradedLists(
            "i2t",
            i2t_relevance,
            images[queries],
            own,
            topk(i2t, depth),
            topk(i2t_relevance, depth),
        ),
        GradedLists("t2i", relevance, own, images, topk(scores.T, k + 1), topk(relevance, k + 1)),
    )
