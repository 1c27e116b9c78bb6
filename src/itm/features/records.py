"""One image of a feature file, as all readers return it, and the checks that all of them need."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from itm.data.boxes import in_pixels


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


def check_record(record: Record) -> np.ndarray:
    """Return the features (n, F) of a record whose features and boxes fit together.

    Raises:
        ValueError: features that are not floats of one or two axes, or boxes of another count.
    """
    features = np.asarray(record.features)
    if features.ndim not in (1, 2) or features.dtype.kind != "f" or not features.size:
        raise ValueError(
            f"image {record.name}: features must be floats (regions, width) or (width,), found "
            f"{features.dtype} {features.shape}"
        )
    features = np.atleast_2d(features)
    if record.boxes is not None and np.shape(record.boxes) != (len(features), 4):
        boxes = np.shape(record.boxes)
        transposed = len(boxes) == 2 and boxes[0] == features.shape[1] != len(features)
        raise ValueError(
            f"image {record.name} has features {features.shape} and boxes {boxes}; expected "
            f"(regions, width) and (regions, 4)" + ", the features seem transposed" * transposed
        )
    return features


def box_units(record: Record) -> str | None:
    """Tell how the boxes of a record are given; None where zeros fit all units."""
    if record.boxes is None:
        return "no boxes"
    if not np.any(record.boxes):
        return None
    if not in_pixels(record.boxes):
        return "boxes in fractions"
    return "boxes in pixels" if record.size else "boxes in pixels, without the image's size"
