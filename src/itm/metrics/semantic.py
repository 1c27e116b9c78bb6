"""Metrics of graded relevance: NCS, semantic recall and nDCG.

Recall accepts one right image per caption. These metrics measure how relevant all retrieved items
are, given a matrix of semantic relevance (`itm.relevance`). All are in percent, averaged over the
queries of a direction; keys are `i2t_<name>_<k>` and `t2i_<name>_<k>`.

Sources: Biten et al., "Is an image worth five sentences?" (WACV 2022) for NCS and semantic recall;
Messina et al., "Transformer reasoning network for image-text matching" (ICPR 2020) for nDCG.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from torch import Tensor

from itm.metrics.graded_lists import GradedLists, as_relevance, graded_lists
from itm.metrics.ranking import KS, Matrix, caption_rows, expand, topk
from itm.utils.checks import check_choice

DEPTH = 30  # images that a caption votes for, as in the published evaluation


def semantic(
    scores: Matrix, relevance: ArrayLike | Tensor, caption_image: ArrayLike | None = None
) -> dict[str, float]:
    """Compute the graded metrics that `itm.metrics.evaluate` reports.

    Args:
        scores: (N, M) similarity.
        relevance: (M, N) relevance of caption m for image n, >= 0.
        caption_image: (M,) row of each caption's image; None means five captions per image.

    Returns:
        For both directions and k = 1, 5, 10: `ncs` and `ncs_out` (own items kept or removed),
        `sr_out` (semantic recall of the most related other image), `ndcg` (linear gain).
    """
    lists = graded_lists(scores, relevance, caption_image, max(KS))
    others = _related_images(lists[1].relevance, caption_image, 1, DEPTH, include_own=False)
    return {
        **_ncs(lists, KS, True, False),
        **_ncs(lists, KS, False, False),
        **_semantic_recall(lists, others, KS, False, "recall"),
        **_ndcg(lists, KS, "linear"),
    }


def ncs(
    scores: Matrix,
    relevance: ArrayLike | Tensor,
    caption_image: ArrayLike | None = None,
    ks: Sequence[int] = KS,
    include_own: bool = True,
    weighted: bool = False,
) -> dict[str, float]:
    """Compute the normalised cumulative semantic score.

    NCS@k = sum of the relevance of the k retrieved items / sum of the k highest relevances.
    A query without relevant items scores 0.

    Args:
        scores: (N, M) similarity.
        relevance: (M, N) relevance of caption m for image n, >= 0.
        caption_image: (M,) row of each caption's image; None means five captions per image.
        ks: list lengths.
        include_own: False removes the query's own captions or image from both lists.
        weighted: weight the item at r = 0, ..., k-1 of both lists by log2(k - r + 1).

    Returns:
        `i2t_ncs_<k>` and `t2i_ncs_<k>`; without own items `ncs_out` instead of `ncs`.
    """
    return _ncs(graded_lists(scores, relevance, caption_image, max(ks)), ks, include_own, weighted)


def _ncs(
    lists: Sequence[GradedLists], ks: Sequence[int], include_own: bool, weighted: bool
) -> dict[str, float]:
    result, name = {}, "ncs" if include_own else "ncs_out"
    for d in lists:
        for k in ks:
            mean = []
            for ranked in (d.items, d.ideal):
                items, taken = d.cut(ranked, k, include_own)
                place = np.arange(items.shape[1])
                weight = np.log2(k - place + 1) if weighted else np.ones(len(place))
                total = (d.gain(items) * taken * weight).sum(1, dtype=np.float64)
                mean.append(total / np.maximum(taken.sum(1), 1))
            result[f"{d.direction}_{name}_{k}"] = 100 * float(np.mean(mean[0] / (mean[1] + 1e-10)))
    return result


def related_images(
    relevance: ArrayLike | Tensor,
    caption_image: ArrayLike | None = None,
    related: int = 1,
    depth: int = DEPTH,
    include_own: bool = True,
) -> np.ndarray:
    """Find the images most related to each image, by the relevance of its captions.

    Every caption votes for its `depth` most relevant images with their relevance; votes are summed
    over the captions of an image.

    Args:
        relevance: (M, N).
        caption_image: (M,) row of each caption's image; None means five captions per image.
        related: number of images to return per image (M in the paper).
        depth: number of images that a caption votes for (30 in the published evaluation).
        include_own: False leaves out the image itself.

    Returns:
        (N, related) image rows, best first, padded with -1.

    Raises:
        ValueError: the relevance is not a matrix; others as for `as_relevance` and `caption_rows`.
    """
    shape = np.shape(relevance)
    if len(shape) != 2:
        raise ValueError(f"relevance must be a captions x images matrix, got {shape}")
    matrix = as_relevance(relevance, *shape)
    return _related_images(matrix, caption_image, related, depth, include_own)


def _related_images(
    relevance: np.ndarray,
    caption_image: ArrayLike | None,
    related: int,
    depth: int,
    include_own: bool,
) -> np.ndarray:
    m, n = relevance.shape
    own = caption_rows(caption_image, n, m)
    items = topk(relevance, depth)
    voter, image = np.repeat(own, items.shape[1]), items.ravel()
    votes = np.take_along_axis(relevance, items, 1).ravel().astype(np.float64)
    if not include_own:
        other = voter != image
        voter, image, votes = voter[other], image[other], votes[other]
    summed = coo_array((votes, (voter, image)), shape=(n, n))
    summed.sum_duplicates()
    order = np.lexsort((summed.col, -summed.data, summed.row))
    row, image = summed.row[order], summed.col[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    result = np.full((n, related), -1)
    result[row[place < related], place[place < related]] = image[place < related]
    return result


def semantic_recall(
    scores: Matrix,
    relevance: ArrayLike | Tensor,
    caption_image: ArrayLike | None = None,
    ks: Sequence[int] = KS,
    related: int = 1,
    include_own: bool = True,
    kind: str = "recall",
    depth: int = DEPTH,
) -> dict[str, float]:
    """Compute semantic recall: the share of the most related images' items that is retrieved.

    The relevant items of an image query are the captions of its `related_images`; those of a
    caption query are the `related_images` of its image.

    Args:
        scores: (N, M) similarity.
        relevance: (M, N) relevance of caption m for image n, >= 0.
        caption_image: (M,) row of each caption's image; None means five captions per image.
        ks: list lengths.
        related: number of related images per query (M in the paper).
        include_own: False removes own items from the lists and from the relevant items.
        kind: `recall`, the share of relevant items that is retrieved; `any`, whether at least one
            is retrieved ("vse_recall" in the paper); `soft`, as `recall` with items weighted by
            their relevance. The published soft score divides by the number of relevant items once
            more.
        depth: see `related_images`.

    Returns:
        `i2t_sr_<k>` and `t2i_sr_<k>`; without own items `sr_out` instead of `sr`. A query without
        relevant items scores 0.

    Raises:
        ValueError: the kind is unknown.
    """
    check_choice("kind", kind, ("recall", "any", "soft"))
    lists = graded_lists(scores, relevance, caption_image, max(ks))
    targets = _related_images(lists[1].relevance, caption_image, related, depth, include_own)
    return _semantic_recall(lists, targets, ks, include_own, kind)


def _semantic_recall(
    lists: Sequence[GradedLists],
    related: np.ndarray,
    ks: Sequence[int],
    include_own: bool,
    kind: str,
) -> dict[str, float]:
    result, name = {}, "sr" if include_own else "sr_out"
    for d in lists:
        targets = related[d.query_image]  # (Q, related)
        members = np.argsort(d.item_image, kind="stable")
        count = np.bincount(d.item_image, minlength=len(related))
        size = np.where(targets >= 0, count[targets], 0)
        query = np.repeat(np.arange(len(targets)), size.sum(1))
        relevant = members[expand((np.cumsum(count) - count)[targets].ravel(), size.ravel())]
        soft = kind == "soft"
        weight = d.relevance[query, relevant] if soft else np.ones(len(query))
        total = np.bincount(query, weight, minlength=len(targets))
        for k in ks:
            items, taken = d.cut(d.items, k, include_own)
            hit = taken & (d.item_image[items][:, :, None] == targets[:, None, :]).any(2)
            found = (hit * d.gain(items) if soft else hit).sum(1, dtype=np.float64)
            value = found > 0 if kind == "any" else _ratio(found, total)
            result[f"{d.direction}_{name}_{k}"] = 100 * float(value.mean())
    return result


def ndcg(
    scores: Matrix,
    relevance: ArrayLike | Tensor,
    caption_image: ArrayLike | None = None,
    ks: Sequence[int] = KS,
    gain: str = "linear",
) -> dict[str, float]:
    """Compute the normalised discounted cumulative gain, own items included.

    nDCG@k = sum_r g(relevance of the item at r) / log2(r + 2), r = 0..k-1, divided by the same sum
    in the ideal order; 0 if no item is relevant.

    Args:
        scores: (N, M) similarity.
        relevance: (M, N) relevance of caption m for image n, >= 0.
        caption_image: (M,) row of each caption's image; None means five captions per image.
        ks: list lengths (published: 25).
        gain: `linear`, g(x) = x, or `exponential`, g(x) = 2^x - 1. The latter expects relevance in
            0..1: rescale CIDEr (0..10) first, or the own pair outweighs everything.

    Returns:
        `i2t_ndcg_<k>` and `t2i_ndcg_<k>`.

    Raises:
        ValueError: the gain is unknown.
    """
    check_choice("gain", gain, ("linear", "exponential"))
    return _ndcg(graded_lists(scores, relevance, caption_image, max(ks)), ks, gain)


def _ndcg(lists: Sequence[GradedLists], ks: Sequence[int], gain: str) -> dict[str, float]:
    result = {}
    for d in lists:
        for k in ks:
            totals = []
            for ranked in (d.items, d.ideal):
                value = d.gain(ranked[:, :k]).astype(np.float64)
                value = np.exp2(value) - 1 if gain == "exponential" else value
                totals.append((value / np.log2(np.arange(value.shape[1]) + 2)).sum(1))
            result[f"{d.direction}_ndcg_{k}"] = 100 * float(_ratio(*totals).mean())
    return result


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; the result is 0 where the whole is 0."""
    ratio: np.ndarray = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return ratio
