"""Define the record of one image that all readers return, and check it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from itm.data.boxes import in_pixels, to_corners

MANY = 128  # more regions than this, and than columns, are columns of a transposed array


class Record(NamedTuple):
    """Features of one image.

    Attributes:
        name: name in the file.
        features: (n, F), or (F,) for one global vector.
        boxes: (n, 4) x1, y1, x2, y2 in pixels or fractions, or None.
        size: width and height in pixels, or None.
    """

    name: str
    features: np.ndarray
    boxes: np.ndarray | None = None
    size: tuple[float, float] | None = None


def check_record(record: Record, box_order: str = "xyxy") -> Record:
    """Check that features, boxes and size of a record agree.

    Args:
        record: of one image.
        box_order: one of `itm.data.boxes.ORDERS`.

    Returns:
        The record with features (n, F) and boxes x1, y1, x2, y2.

    Raises:
        ValueError: features are not finite floats of one or two axes or seem transposed, the number
            of boxes differs, `to_corners` refuses them, or the size is not positive.
    """
    features = np.asarray(record.features)
    if features.ndim not in (1, 2) or features.dtype.kind != "f" or not features.size:
        raise ValueError(
            f"image {record.name}: features must be floats (regions, width) or (width,), found "
            f"{features.dtype} {features.shape}"
        )
    if not np.isfinite(features).all():
        raise ValueError(
            f"image {record.name} has features with NaN or infinite values; extract them again, or "
            "leave the image out"
        )
    features = np.atleast_2d(features)
    if record.boxes is not None:
        _check_count(record.name, features.shape, np.shape(record.boxes))
    if len(features) > max(MANY, features.shape[1]):
        raise ValueError(
            f"image {record.name} has features {features.shape}, which seem transposed: expected "
            "(regions, width) with more columns than regions"
        )
    if features.shape[1] == 4 and in_pixels(features) and _are_corners(features):
        raise ValueError(
            f"image {record.name} has features {features.shape} that look like boxes x1, y1, x2, "
            "y2; give the file or folder of the features"
        )
    if record.size is not None and not (np.isfinite(record.size).all() and min(record.size) > 0):
        raise ValueError(
            f"image {record.name} has the size {record.size}; expected width and height in pixels"
        )
    if record.boxes is not None:
        if np.asarray(record.boxes).dtype.kind not in "fiu":
            raise ValueError(f"image {record.name} has boxes that are not numbers")
        boxes = to_corners(np.asarray(record.boxes), box_order, record.size, f"image {record.name}")
        return record._replace(features=features, boxes=boxes)
    return record._replace(features=features)


def _are_corners(rows: np.ndarray) -> bool:
    return bool((rows >= 0).all() and (rows[:, 2:] > rows[:, :2]).all())


def _check_count(name: str, features: tuple[int, ...], boxes: tuple[int, ...]) -> None:
    if boxes == (features[0], 4):
        return
    hint = ""
    if len(boxes) == 2 and boxes[1] == 4 and boxes[0] == features[1]:
        hint = ", the features seem transposed"
    elif boxes == (4, features[0]):
        hint = ", the boxes seem transposed"
    raise ValueError(
        f"image {name} has features {features} and boxes {boxes}; expected (regions, width) and "
        f"(regions, 4){hint}"
    )


def count_backward(record: Record) -> int:
    """Count the boxes that end before they begin, x2 < x1 or y2 < y1."""
    if record.boxes is None:
        return 0
    boxes = np.asarray(record.boxes)
    return int((boxes[:, 2:] < boxes[:, :2]).any(1).sum())


def box_units(record: Record) -> str | None:
    """Say in which units the boxes of a record are; None if all are zero, which fits any unit."""
    if record.boxes is None:
        return "no boxes"
    if not np.any(record.boxes):
        return None
    if not in_pixels(record.boxes):
        return "boxes in fractions"
    return "boxes in pixels" if record.size else "boxes in pixels, without the image's size"
