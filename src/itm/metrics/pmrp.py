"""PMRP, plausible-match R-precision: relevance from the object categories of the images.

Source: Chun et al., "Probabilistic embeddings for cross-modal retrieval" (CVPR 2021).
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from itm.metrics.protocols import Protocol, Rows, average_folds
from itm.metrics.ranking import caption_rows
from itm.utils.readers import reader

MOST_CATEGORIES = 1000  # COCO has 90; each takes a column of the codes


def category_codes(instances: str | Path, image_ids: ArrayLike) -> np.ndarray:
    """Read the object categories of each image from COCO's instance annotations.

    Args:
        instances: path of `instances_val2014.json`.
        image_ids: (N,) COCO image ids in the order of the similarity matrix;
            `itm.metrics.eccv.load_tables().image_ids` for SCAN's `testall` split.

    Returns:
        (N, K) float32, column = category id - 1. An image without annotations has a row of zeros:
        pass `annotated=codes.any(1)` to `pmrp`.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it does not hold annotations, a category id is not between 1 and 1000, or the
            image ids are not different whole numbers (names would match no annotation).
    """
    ids = np.asarray(image_ids)
    values = ids.tolist() if ids.ndim == 1 else []
    numbers = [int(x) for x in values if isinstance(x, int | float) and x % 1 == 0]
    if ids.ndim != 1 or len(set(numbers)) < len(ids):
        raise ValueError(
            "image_ids must hold COCO's number of each image, such as 391895, each once: got "
            f"{ids.dtype} {ids.shape}, {len(set(numbers))} different whole numbers"
        )
    return _read_codes(instances, numbers)


@reader("is not a file of COCO's instance annotations", path="instances")
def _read_codes(instances: str | Path, ids: Sequence[int]) -> np.ndarray:
    """Read the codes (N, K) of different images."""
    annotations = json.loads(Path(instances).read_text(encoding="utf-8"))["annotations"]
    if strange := [x for a in annotations if type(x := a["image_id"]) is not int]:
        raise ValueError(f"image_id must be a whole number, got {strange[0]!r}")
    categories = {a["category_id"] for a in annotations}
    if odd := [c for c in categories if type(c) is not int or not 1 <= c <= MOST_CATEGORIES]:
        raise ValueError(f"category_id must be from 1 to {MOST_CATEGORIES}, got {odd[0]!r}")
    row = {image: i for i, image in enumerate(ids)}
    codes = np.zeros((len(row), max(categories, default=0)), np.float32)
    for annotation in annotations:
        if annotation["image_id"] in row:
            codes[row[annotation["image_id"]], annotation["category_id"] - 1] = 1
    return codes


def pmrp(
    scores: np.ndarray,
    codes: np.ndarray,
    caption_image: ArrayLike | None = None,
    protocol: str | Protocol = "full",
    annotated: np.ndarray | None = None,
    thresholds: Sequence[int] = (0, 1, 2),
    own_is_positive: bool = True,
) -> dict[str, float]:
    """Compute plausible-match R-precision from the object categories of the images.

    An item is plausible if the codes of its image and of the query's image differ in at most z
    categories. For a query with R plausible items, the score is the share of plausible items among
    the first R, averaged over thresholds z and queries. Queries without plausible items are left
    out.

    Args:
        scores: (N, M) similarity.
        codes: (N, K) 0/1 categories present in each image. An image whose code is NaN stays in
            the galleries but is never plausible, as in the eccv_caption package.
        caption_image: (M,) row of each caption's image; None means five captions per image.
        protocol: as in `itm.metrics.evaluate`; the published value uses `coco_1k`.
        annotated: (N,) bool (or 0 and 1); other images are left out of queries and galleries.
        thresholds: the values of z.
        own_is_positive: count the query's own items as plausible.

    Returns:
        `i2t_pmrp`, `t2i_pmrp` and, for the first item alone, `i2t_pmr1`, `t2i_pmr1`; in percent.

    Raises:
        ValueError: shapes do not match, codes are numbers of objects, the scores contain NaN, no
            image is annotated or has a category, or no query has a plausible item.
    """
    n, m = scores.shape
    own = caption_rows(caption_image, n, m)
    codes = np.asarray(codes, np.float32)
    real = np.ones(n, bool) if annotated is None else np.asarray(annotated)
    if not (np.isin(codes, (0, 1)) | np.isnan(codes)).all() or not np.isin(real, (0, 1)).all():
        raise ValueError(
            "codes and annotated must hold 0 and 1 only, absent and present: give codes > 0 for "
            "numbers of objects, and a mask in place of rows"
        )
    real = real.astype(bool)
    if codes.ndim != 2 or len(codes) != n or real.shape != (n,):
        raise ValueError(
            f"codes and annotated must hold one row per image ({n}), "
            f"got codes {codes.shape} and annotated {real.shape}"
        )

    def fold(i: slice, c: Rows, own: np.ndarray) -> dict[str, float]:
        images, captions = np.flatnonzero(real[i]), np.flatnonzero(real[i][own])
        if not len(captions):
            raise ValueError(
                f"PMRP needs images with categories and captions, but none of the {len(real[i])} "
                f"images of {'a fold of ' if len(real[i]) < n else ''}the split has both"
            )
        own = np.searchsorted(images, own[captions])
        block, code = scores[i][images][:, c][:, captions], codes[i][images]
        distance = code.sum(1)[:, None] + code.sum(1) - 2 * code @ code.T  # (N, N)
        rows = np.arange(len(images))
        result = {}
        for name, values, query, item in (("i2t", block, rows, own), ("t2i", block.T, own, rows)):
            terms = [*_plausible(values, distance, query, item, thresholds, own_is_positive)]
            precision, first = np.concatenate(terms, 1)
            if np.isnan(precision).all():
                raise ValueError(
                    "PMRP is the mean over queries with a plausible item; none has one"
                )
            result[f"{name}_pmrp"] = 100 * float(np.nanmean(precision))
            result[f"{name}_pmr1"] = 100 * float(np.nanmean(first))
        return result

    result = average_folds(fold, n, own, protocol)
    if not codes[real].any():  # every item is plausible then, and the result 100
        raise ValueError(f"codes {codes.shape} are 0 everywhere: no image has a category")
    return result


def _plausible(
    scores: np.ndarray,
    distance: np.ndarray,
    query_image: np.ndarray,
    item_image: np.ndarray,
    thresholds: Sequence[int],
    own_is_positive: bool,
) -> Iterator[np.ndarray]:
    """Yield R-precision and first hit, (2, q) per threshold and block of q queries.

    NaN marks a query without positive items. The first R items are found by comparing with the R-th
    largest value, because sorting values is many times faster than sorting indices.
    """
    gallery = len(item_image)
    step = max(1, 2**20 // max(gallery, 1))
    for start in range(0, len(query_image) if gallery else 0, step):
        query = query_image[start : start + step]
        values = np.ascontiguousarray(scores[start : start + step])
        ordered, first = np.sort(values, axis=1), values.argmax(1)
        if np.isnan(ordered[:, -1]).any():  # NaN sorts last
            raise ValueError("cannot rank scores that contain NaN")
        apart = distance[query].take(item_image, axis=1)
        for z in thresholds:
            positive = apart <= z
            if not own_is_positive:
                positive &= item_image != query[:, None]
            size = positive.sum(1)
            cut = np.take_along_axis(ordered, gallery - np.maximum(size, 1)[:, None], 1)
            inside = values >= cut
            surplus = inside.sum(1) - size
            for row in np.flatnonzero((surplus > 0) & (size > 0)):  # ties: lower index first
                tied = np.flatnonzero(values[row] == cut[row])
                inside[row, tied[len(tied) - surplus[row] :]] = False
            found = (positive & inside).sum(1)
            asked = np.where(size > 0, 1.0, np.nan)
            hit = positive[np.arange(len(query)), first]
            yield np.stack([found / np.maximum(size, 1) * asked, hit * asked])
