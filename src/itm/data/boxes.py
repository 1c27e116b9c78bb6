"""Boxes x1, y1, x2, y2 with y pointing down: pixels and fractions, overlap, union."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

Box = tuple[float, float, float, float]

LIMIT = 2  # fractions may exceed 1 by rounding; pictures are wider than two pixels


def in_pixels(boxes: np.ndarray) -> bool:
    """Tell whether the boxes (..., 4) of an image, or of the first 64 images, are in pixels."""
    return bool(np.nanmax(np.asarray(boxes[:64], np.float64), initial=0) > LIMIT)


def check_boxes(boxes: np.ndarray, path: Path) -> None:
    """Check the boxes (rows, R, 4) of a file.

    Raises:
        ValueError: a value is not a finite number, x2 < x1 or y2 < y1, as in boxes of x, y, width
            and height, or some rows are in pixels and others in fractions.
    """
    rows = boxes.astype(np.float64, copy=False)
    if boxes.dtype.kind not in "fiu" or not np.isfinite(rows).all():
        bad = 0 if boxes.dtype.kind not in "fiu" else _first(~np.isfinite(rows))
        raise ValueError(f"{path} row {bad}: expected finite numbers, found {boxes.dtype} boxes")
    size = np.abs(rows).max((1, 2), initial=0)
    slack = np.where(size > LIMIT, 1, 0.01)[:, None, None]  # detectors round
    turned = rows[..., 2:] < rows[..., :2] - slack
    if turned.any():
        bad = _first(turned)
        box = rows[bad][turned[bad].any(-1)][0].tolist()
        raise ValueError(
            f"{path} row {bad}: expected boxes x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, found "
            f"{box}; convert boxes of x, y, width, height"
        )
    pixels, fractions = size > LIMIT, (size > 0) & (size <= LIMIT)
    if pixels.any() and fractions.any():
        raise ValueError(
            f"{path}: row {_first(pixels)} is in pixels, row {_first(fractions)} in fractions of "
            "the image; use one unit"
        )


def _first(wrong: np.ndarray) -> int:
    """Return the first row with a true value."""
    return int(np.flatnonzero(wrong.reshape(len(wrong), -1).any(1))[0])


def to_fractions(boxes: np.ndarray, size: tuple[float, float] | None) -> np.ndarray | None:
    """Turn boxes into fractions of width and height; None for pixels of unknown image size."""
    boxes = np.asarray(boxes, np.float32)
    if not in_pixels(boxes):
        return np.clip(boxes, 0, 1)
    if size is None:
        return None
    return np.clip(boxes / np.array([*size, *size], np.float32), 0, 1)


def overlaps(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Compute intersection over union: (..., R, 4) with (..., 4) -> (..., R).

    Boxes reach up to their edges, so that their width is x2 - x1; `edges` converts boxes of
    inclusive pixels. A box without area overlaps nothing.
    """
    boxes, truth = np.asarray(boxes, np.float64), np.asarray(truth, np.float64)[..., None, :]
    low, high = (
        np.maximum(boxes[..., :2], truth[..., :2]),
        np.minimum(boxes[..., 2:], truth[..., 2:]),
    )
    shared = np.clip(high - low, 0, None).prod(-1)
    union = _area(boxes) + _area(truth) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(-1)


def around(boxes: Sequence[Sequence[float]]) -> Box:
    """Find the smallest box around all boxes."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def edges(boxes: np.ndarray) -> np.ndarray:
    """Convert boxes of inclusive pixels to boxes up to their edges.

    Their overlap is then the usual one of inclusive pixels, "+ 1" on widths and heights.
    """
    return np.asarray(boxes, np.float64) + np.array([0, 0, 1, 1])
