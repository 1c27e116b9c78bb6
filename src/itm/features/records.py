"""One image of a feature file, as all readers return it."""

from typing import NamedTuple

import numpy as np


class Record(NamedTuple):
    """Features of one image.

    Attributes:
        name: as the file has it.
        features: (n, F), or (F,) for one global vector.
        boxes: (n, 4) x1, y1, x2, y2 in pixels or fractions, or None.
        size: width and height in pixels, or None.
    """

    name: str
    features: np.ndarray
    boxes: np.ndarray | None = None
    size: tuple[float, float] | None = None


def to_fractions(boxes: np.ndarray, size: tuple[float, float] | None) -> np.ndarray | None:
    """Turn boxes into fractions of width and height; None for pixels of unknown image size."""
    boxes = np.asarray(boxes, np.float32)
    if boxes.max(initial=0) <= 1:
        return boxes
    if size is None:
        return None
    return np.clip(boxes / np.array([*size, *size], np.float32), 0, 1)
