"""PMRP, plausible-match R-precision: relevance from the object categories of the images.

Source: Chun et al., "Probabilistic embeddings for cross-modal retrieval" (CVPR 2021).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from itm.protocols import Protocol, Rows, average_folds
from itm.ranking import caption_rows


def pmrp(
    scores: np.ndarray,
    codes: np.ndarray,
    caption_image: ArrayLike | None = None,
    protocol: str | Protocol = "full",
    annotated: np.ndarray | None = None,
    thresholds: Sequence[int] = (0, 1, 2),
    own_is_positive: bool = True,
) -> dict[str, float]:
    """Plausible-match R-precision, from the object categories of the images.

    An item is plausible if the codes of its image and of the query's image differ in at most z
    places. With R plausible items the score is the share of plausible ones among the first R,
    averaged over thresholds z and queries; a query without a plausible item is left out.

    Args:
        scores: (N, M) similarity.
        codes: (N, K) 0/1 categories present in each image. An image whose code is NaN stays in
            the galleries and is plausible for nothing, as in the eccv_caption package.
        caption_image: (M,) row of each caption's image; None means five captions per image.
        protocol: as in `itm.metrics.evaluate`; the published value uses `coco_1k`.
        annotated: (N,) bool; images that are False are neither queries nor in a gallery.
        thresholds: the values of z.
        own_is_positive: False does not count the own items as plausible.

    Returns:
        `i2t_pmrp`, `t2i_pmrp`, and `pmr1`, whether the first item is plausible.

    Raises:
        ValueError: shapes that do not fit.
    """
    n, m = scores.shape
    own = caption_rows(caption_image, n, m)
    codes = np.asarray(codes, np.float32)
    real = np.ones(n, bool) if annotated is None else np.asarray(annotated, bool)
    if codes.ndim != 2 or len(codes) != n or real.shape != (n,):
        raise ValueError(
            f"need one code and one annotated flag per image ({n}), "
            f"got codes {codes.shape} and annotated {real.shape}"
        )

    def measure(i: slice, c: Rows, own: np.ndarray) -> dict[str, float]:
        images, captions = np.flatnonzero(real[i]), np.flatnonzero(real[i][own])
        own = np.searchsorted(images, own[captions])
        block, code = scores[i][images][:, c][:, captions], codes[i][images]
        distance = code.sum(1)[:, None] + code.sum(1) - 2 * code @ code.T  # (N, N)
        rows = np.arange(len(images))
        result = {}
        for name, values, query, item in (("i2t", block, rows, own), ("t2i", block.T, own, rows)):
            terms = [*_plausible(values, distance, query, item, thresholds, own_is_positive)]
            precision, first = np.concatenate(terms, 1)
            result[f"{name}_pmrp"] = 100 * float(np.nanmean(precision))
            result[f"{name}_pmr1"] = 100 * float(np.nanmean(first))
        return result

    return average_folds(measure, n, own, protocol)


def _plausible(
    scores: np.ndarray,
    distance: np.ndarray,
    query_image: np.ndarray,
    item_image: np.ndarray,
    thresholds: Sequence[int],
    own_is_positive: bool,
) -> Iterator[np.ndarray]:
    """R-precision and first hit, (2, q) per threshold and block of q queries; NaN: no positive."""
    step = max(1, 2**22 // max(len(item_image), 1))
    for start in range(0, len(query_image), step):
        query = query_image[start : start + step, None]
        order = np.argsort(-scores[start : start + step], axis=1, kind="stable")
        item = item_image[order]
        for z in thresholds:
            positive = (distance[query, item] <= z) & ((item != query) | own_is_positive)
            size = positive.sum(1)
            found = (positive & (np.arange(item.shape[1]) < size[:, None])).sum(1)
            asked = np.where(size > 0, 1.0, np.nan)
            yield np.stack([found / np.maximum(size, 1) * asked, positive[:, 0] * asked])
