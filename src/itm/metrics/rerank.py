"""Re-rank a score matrix against hubs, items that are near to many queries.

All functions here read more than one query: the scores of a bank of queries, or of all test
queries. A search for one query can do the same with a bank only. Report their results beside the
plain ones, never in their place.

Scores are (Q, G), row = query, column = gallery item. For image queries this is the matrix of the
library, for caption queries its transpose. `reranked` treats both directions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp
from torch import Tensor

from itm.metrics.protocols import Protocol, Rows, average_folds
from itm.metrics.ranking import as_floats, caption_rows, ranks, topk
from itm.metrics.retrieval import summary
from itm.utils.checks import check_choice

BETA = 20.0  # QB-Norm's inverse temperature, for cosines
BANK_METHODS = ("inverted_softmax", "qb_norm")  # those that may read a bank of other queries
METHODS = (*BANK_METHODS, "sinkhorn", "mutual_rank")
BLOCK = 1 << 22  # values sorted at once


class Reranked(NamedTuple):
    """The scores of both directions after re-ranking.

    Attributes:
        i2t: (N, M), to rank the captions for each image.
        t2i: (N, M), to rank the images for each caption.
    """

    i2t: np.ndarray
    t2i: np.ndarray


class Bank(NamedTuple):
    """Scores of other queries, such as those of the training split, with the test items.

    Attributes:
        images: (I, M) scores of I images with the M test captions.
        captions: (N, C) scores of the N test images with C captions.
    """

    images: np.ndarray
    captions: np.ndarray


def inverted_softmax(
    scores: np.ndarray, bank: np.ndarray | None = None, beta: float = BETA
) -> np.ndarray:
    """Divide exp(beta s) of each gallery item by its sum over a bank of queries; return the log.

    Smith, Turban, Hamblin, Hammerla: Offline Bilingual Word Vectors, Orthogonal Transformations and
    the Inverted Softmax, ICLR 2017, equation 10.

    Args:
        scores: (Q, G).
        bank: (B, G) scores of other queries with the same gallery; None = the test queries.
        beta: inverse temperature.

    Returns:
        (Q, G) float64.

    Raises:
        ValueError: the bank has another gallery or contains NaN.
    """
    scores = np.asarray(scores, np.float64)
    found: np.ndarray = beta * scores - logsumexp(beta * _bank(scores, bank), 0, keepdims=True)
    return found


def qb_norm(
    scores: np.ndarray, bank: np.ndarray | None = None, beta: float = BETA, k: int = 1
) -> np.ndarray:
    """Apply the inverted softmax only to the queries whose best item is a hub.

    A hub is among the k best items of some query of the bank. Bogolin, Croitoru, Jin, Liu, Albanie:
    Cross Modal Retrieval with Querybank Normalisation, CVPR 2022, section 3.3.

    Args:
        scores: (Q, G).
        bank: (B, G) scores of other queries with the same gallery; None = the test queries:
            all their best items are hubs, so the result equals `inverted_softmax`.
        beta: inverse temperature.
        k: number of items that each query of the bank marks as hubs.

    Returns:
        (Q, G) float64; rows of the two kinds of queries have different scales.

    Raises:
        ValueError: the bank has another gallery or contains NaN, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    scores = np.asarray(scores, np.float64)
    known = _bank(scores, bank)
    hub = np.zeros(scores.shape[1], dtype=bool)
    hub[topk(known, k)] = True
    chosen = hub[scores.argmax(1)]
    return np.where(chosen[:, None], inverted_softmax(scores, known, beta), scores)


def sinkhorn(scores: np.ndarray, beta: float = BETA, steps: int = 10) -> np.ndarray:
    """Scale exp(beta s) until all queries and all gallery items have equal sums; return the log.

    Cuturi: Sinkhorn Distances, NeurIPS 2013, algorithm 1, with uniform marginals. Each step scales
    the rows, then the columns.

    Args:
        scores: (Q, G) of all queries.
        beta: inverse temperature.
        steps: number of steps.

    Returns:
        (Q, G) float64.
    """
    plan = beta * np.asarray(scores, np.float64)
    queries, items = plan.shape
    for _ in range(steps):
        plan -= logsumexp(plan, 1, keepdims=True) + np.log(queries)
        plan -= logsumexp(plan, 0, keepdims=True) + np.log(items)
    return plan


def mutual_rank(scores: np.ndarray, k: int = 15) -> np.ndarray:
    """Sort the k best items of each query by the query's rank among all queries of that item.

    Wang, Xu, Shen, Yang, Shen: Matching Images and Text with Multi-modal Tensor Fusion and
    Re-ranking, ACM MM 2019, section 3.4; DSRAN does the same. Their released code also counts, for
    a caption, the ranks of the other captions of its image; this code does not, because that
    reveals the answer.

    Args:
        scores: (Q, G) of all queries.
        k: number of items that change places; the others keep theirs.

    Returns:
        (Q, G) float64, minus the new place of each item, from 0.

    Raises:
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    scores = np.asarray(scores)
    first = topk(scores, k)
    reverse = np.take_along_axis(places(scores.T).T, first, 1)  # rank of the query for each item
    again = np.take_along_axis(first, np.argsort(reverse, 1, kind="stable"), 1)
    found = -places(scores).astype(float)
    np.put_along_axis(found, again, -np.arange(float(again.shape[1]))[None], 1)
    return found


def places(scores: np.ndarray) -> np.ndarray:
    """Rank the items of each query, (Q, G) -> (Q, G) int32 from 0; ties by index."""
    found = np.empty(scores.shape, np.int32)
    step = max(1, BLOCK // max(1, scores.shape[1]))
    for start in range(0, len(scores), step):
        rows = slice(start, start + step)
        order = np.argsort(-as_floats(scores[rows]), 1, kind="stable")
        place = np.broadcast_to(np.arange(scores.shape[1], dtype=np.int32), order.shape)
        np.put_along_axis(found[rows], order, place, 1)
    return found


def reranked(
    scores: np.ndarray, method: str, beta: float = BETA, bank: Bank | None = None
) -> Reranked:
    """Re-rank both directions.

    Args:
        scores: (N, M) similarity of N images and M captions.
        method: one of `METHODS`.
        beta: inverse temperature of the first three methods; 20 suits cosines.
        bank: queries of the first two methods; None = all queries of the matrix.

    Raises:
        ValueError: the method is unknown or reads no bank, beta is not above 0 and finite, or a
            score is infinite, other than for `mutual_rank`.
    """
    check_choice("rerank", method, METHODS)
    if not 0 < beta < np.inf:
        raise ValueError(
            f"beta must be above 0, got {beta}: give a finite number, such as {BETA:g}"
        )
    check_bank(method, bank is not None)
    if method != "mutual_rank" and (missing := int(np.isinf(scores).sum())):
        raise ValueError(
            f"rerank={method} adds up the scores of all pairs, but {missing} of {scores.size} are "
            "infinite: give a score of its own to every pair, or use mutual_rank"
        )
    known: dict[str, Callable[[np.ndarray, np.ndarray | None], np.ndarray]] = {
        "inverted_softmax": lambda x, other: inverted_softmax(x, other, beta),
        "qb_norm": lambda x, other: qb_norm(x, other, beta),
        "sinkhorn": lambda x, other: sinkhorn(x, beta),
        "mutual_rank": lambda x, other: mutual_rank(x),
    }
    change = known[method]
    images, captions = (None, None) if bank is None else (bank.images, bank.captions.T)
    return Reranked(change(scores, images), change(scores.T, captions).T)


def check_bank(method: str, bank: bool) -> None:
    """Refuse a bank for methods that read all test queries.

    Raises:
        ValueError: the method reads no bank.
    """
    if bank and method not in BANK_METHODS:
        raise ValueError(
            f"rerank={method} reads all test queries and no bank; only "
            f"{' and '.join(BANK_METHODS)} take one"
        )


def evaluate_reranked(
    scores: np.ndarray,
    caption_image: ArrayLike | Tensor | None,
    protocol: str | Protocol,
    method: str,
    beta: float = BETA,
    bank: Bank | None = None,
) -> dict[str, float]:
    """Compute the recalls of `itm.metrics.evaluate` after re-ranking, in each fold by itself.

    Args:
        scores: (N, M).
        caption_image: (M,) row of each caption's image; None means five captions per image.
        protocol: as in `itm.metrics.evaluate`.
        method: one of `METHODS`.
        beta: see `reranked`.
        bank: see `reranked`; all its queries serve every fold.

    Returns:
        The keys of `itm.metrics.summary`.

    Raises:
        ValueError: as for `itm.metrics.evaluate` or `reranked`.
    """
    owners = caption_rows(caption_image, *scores.shape)

    def fold(i: slice, c: Rows, own: np.ndarray) -> dict[str, float]:
        part = None if bank is None else Bank(bank.images[:, c], bank.captions[i])
        changed = reranked(np.asarray(scores[i][:, c]), method, beta, part)
        return summary(ranks(changed.i2t, own)[0], ranks(changed.t2i, own)[1])

    return average_folds(fold, len(scores), owners, protocol)


def rerank_rows(
    matrices: Mapping[str, np.ndarray],
    caption_image: ArrayLike | Tensor | None,
    protocol: str | Protocol,
    methods: Sequence[str],
    beta: float = BETA,
    banks: Mapping[str, Bank] | None = None,
) -> dict[str, dict[str, float]]:
    """Compute `evaluate_reranked` of every matrix with every method.

    Args:
        matrices: name -> scores (N, M).
        caption_image: see `evaluate_reranked`.
        protocol: see `evaluate_reranked`.
        methods: some of `METHODS`.
        beta: see `reranked`.
        banks: name -> bank of each matrix; None = all test queries.

    Returns:
        "name (method)" or "name (method, bank)" -> metrics.
    """
    return {
        f"{name} ({method}{'' if banks is None else ', bank'})": evaluate_reranked(
            scores, caption_image, protocol, method, beta, None if banks is None else banks[name]
        )
        for name, scores in matrices.items()
        for method in methods
    }


def _bank(scores: np.ndarray, bank: np.ndarray | None) -> np.ndarray:
    if bank is None:
        return scores
    bank = np.asarray(bank, np.float64)
    if bank.ndim != 2 or bank.shape[1] != scores.shape[1] or not len(bank):
        raise ValueError(
            f"bank must be (queries, {scores.shape[1]}), the scores of other queries with the same "
            f"gallery, got {bank.shape}"
        )
    if np.isnan(bank).any():
        raise ValueError("the bank contains NaN: its queries would mark wrong items as hubs")
    return bank
