"""Boxes x1, y1, x2, y2 with y pointing down: pixels and fractions, overlap, union."""

from collections.abc import Sequence

import numpy as np

Box = tuple[float, float, float, float]

LIMIT = 2  # rounding brings fractions a little above 1; no picture is two pixels wide


def in_pixels(boxes: np.ndarray) -> bool:
    """Tell whether the boxes (..., 4) of an image, or of the first 64 images, are in pixels."""
    return bool(np.nanmax(np.asarray(boxes[:64], np.float64), initial=0) > LIMIT)


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
