"""Retrieval metrics of a similarity matrix: ranks, recalls, named protocols."""

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from itm.metrics.graded_lists import as_relevance
from itm.metrics.protocols import PROTOCOLS, Protocol, Rows, average_folds
from itm.metrics.ranking import (
    KS,
    RECALLS,
    Matrix,
    Ranks,
    caption_rows,
    ranks,
    streamed_ranks,
    to_numpy,
    topk,
)
from itm.metrics.semantic import semantic

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "evaluate",
    "evaluate_queries",
    "evaluate_vectors",
    "ranks",
    "recall",
    "streamed_ranks",
    "summary",
    "topk",
]


def recall(ranks: ArrayLike, k: int) -> float:
    """Compute the percentage of queries whose right item is among the first k.

    Args:
        ranks: 0-based ranks; negative ranks (images without captions) are left out.
        k: length of the list.

    Raises:
        ValueError: there is no query.
    """
    return 100 * float(np.mean(_queries(ranks) < k))


def summary(i2t: np.ndarray, t2i: np.ndarray) -> dict[str, float]:
    """Compute recalls, median and mean rank of both directions from 0-based ranks.

    Args:
        i2t: (N,) ranks of the image queries, -1 for an image without captions.
        t2i: (M,) ranks of the caption queries.

    Returns:
        `i2t_r1`, `i2t_r5`, `i2t_r10`, `i2t_medr`, `i2t_meanr`, the same for `t2i`, and `rsum`, the
        sum of the six recalls. Recalls in percent; median (rounded down) and mean rank from 1.
    """
    result: dict[str, float] = {}
    for name, values in (("i2t", i2t), ("t2i", t2i)):
        result |= {f"{name}_r{k}": recall(values, k) for k in KS}
        result[f"{name}_medr"] = float(np.floor(np.median(_queries(values))) + 1)
        result[f"{name}_meanr"] = float(np.mean(_queries(values)) + 1)
    result["rsum"] = sum(result[name] for name in RECALLS)
    return result


def _queries(ranks: ArrayLike) -> np.ndarray:
    ranks = np.asarray(ranks)
    ranks = ranks[ranks >= 0]
    if not len(ranks):
        raise ValueError("cannot average over zero queries: the split has no image-caption pair")
    return ranks


def evaluate(
    scores: Matrix,
    caption_image: ArrayLike | Tensor | None = None,
    protocol: str | Protocol = "full",
    relevance: ArrayLike | Tensor | None = None,
) -> dict[str, float]:
    """Compute the metrics of a similarity matrix under a protocol.

    Args:
        scores: (N, M) similarity of N distinct images and M captions, larger is better.
        caption_image: (M,) row of each caption's image; None means five captions per image.
        protocol: `full` (any size), `f30k_1k`, `coco_1k` (the mean over five consecutive folds of
            1000 images), `coco_5k`, or your own `Protocol`.
        relevance: (M, N) semantic relevance >= 0, such as `itm.relevance.cider`, or None. Each fold
            uses its own block.

    Returns:
        The keys of `summary`. With a relevance also, for both directions and k = 1, 5, 10 in
        percent: `i2t_ncs_10` (normalised cumulative semantic score with the query's own captions in
        the gallery), `i2t_ncs_out_10` (own captions removed), `i2t_sr_out_10` (semantic recall of
        the most related other image) and `i2t_ndcg_10` (linear gain).

    Raises:
        ValueError: the protocol is unknown or defined on other sizes, the scores contain NaN, or
            the relevance has another shape or holds negative values.
    """
    return evaluate_queries(scores, caption_image, protocol, relevance)[0]


def evaluate_queries(
    scores: Matrix,
    caption_image: ArrayLike | Tensor | None = None,
    protocol: str | Protocol = "full",
    relevance: ArrayLike | Tensor | None = None,
) -> tuple[dict[str, float], Ranks]:
    """Compute `evaluate` and the 0-based ranks (N,) and (M,) of all queries within their fold."""
    n, m = _matrix_shape(scores)
    own = caption_rows(caption_image, n, m)
    relevance = None if relevance is None else as_relevance(relevance, m, n)  # wrong? told at once
    i2t, t2i = np.empty(n, np.int64), np.empty(m, np.int64)

    def fold(i: slice, c: Rows, own: np.ndarray) -> dict[str, float]:
        i2t[i], t2i[c] = ranks(scores[i][:, c], own)
        return summary(i2t[i], t2i[c])

    results = average_folds(fold, n, own, protocol)
    if relevance is not None:
        results |= _graded(scores, relevance, own, protocol)
    return results, (i2t, t2i)


def evaluate_graded(
    scores: Matrix,
    relevance: ArrayLike | Tensor,
    caption_image: ArrayLike | Tensor | None = None,
    protocol: str | Protocol = "full",
) -> dict[str, float]:
    """Compute the metrics that a relevance adds to `evaluate`, without the recalls."""
    n, m = _matrix_shape(scores)
    own = caption_rows(caption_image, n, m)
    return _graded(scores, as_relevance(relevance, m, n), own, protocol)


def _graded(
    scores: Matrix, relevance: np.ndarray, own: np.ndarray, protocol: str | Protocol
) -> dict[str, float]:
    """Compute `evaluate_graded` of a relevance and rows that are checked."""

    def fold(i: slice, c: Rows, own: np.ndarray) -> dict[str, float]:
        return semantic(to_numpy(scores[i][:, c]), relevance[c][:, i], own)

    return average_folds(fold, len(scores), own, protocol)


def evaluate_vectors(
    image_vectors: Matrix,
    caption_vectors: Matrix,
    caption_image: ArrayLike | Tensor | None = None,
    protocol: str | Protocol = "full",
) -> dict[str, float]:
    """Compute `evaluate` of `image_vectors @ caption_vectors.T` without storing that matrix.

    Args:
        image_vectors: (N, D).
        caption_vectors: (M, D).
        caption_image: as in `evaluate`.
        protocol: as in `evaluate`.

    Returns:
        The keys of `summary`.
    """
    own = caption_rows(caption_image, len(image_vectors), len(caption_vectors))

    def fold(i: slice, c: Rows, own: np.ndarray) -> dict[str, float]:
        return summary(*streamed_ranks(image_vectors[i], caption_vectors[c], own))

    return average_folds(fold, len(image_vectors), own, protocol)


def _matrix_shape(scores: Matrix) -> tuple[int, int]:
    if getattr(scores, "ndim", None) != 2:
        found = tuple(scores.shape) if hasattr(scores, "shape") else f"a {type(scores).__name__}"
        raise ValueError(f"scores must be an images x captions matrix, got {found}")
    return scores.shape[0], scores.shape[1]
