"""Check, convert and compare boxes x1, y1, x2, y2 in pixels or fractions; y points down."""

from collections.abc import Sequence

import numpy as np

from itm.utils.checks import check_choice

Box = tuple[float, float, float, float]

PERCENT = 100.5  # rounded
WIDE = 200  # a picture with these sides has boxes beyond its first 100 pixels
SEVERAL = 10  # boxes
LIMIT = 2  # rounding brings fractions a little above 1; no picture is two pixels wide


ORDERS = ("xyxy", "yxyx", "xywh")


def to_corners(
    boxes: np.ndarray, order: str, size: tuple[float, float] | None, where: str
) -> np.ndarray:
    """Turn boxes (..., 4) in one of `ORDERS` into x1, y1, x2, y2, and check them.

    Args:
        boxes: in pixels or fractions.
        order: "yxyx" is y1, x1, y2, x2; "xywh" is x, y, width, height.
        size: see `check_boxes`.
        where: see `check_boxes`.

    Raises:
        ValueError: as for `check_boxes`, or the order is unknown.
    """
    check_choice("box_order", order, ORDERS)
    if order == "yxyx":
        boxes = boxes[..., [1, 0, 3, 2]]
    elif order == "xywh":
        boxes = np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)
    try:
        check_boxes(boxes, size, where)
    except ValueError as error:
        other = "" if order == "xyxy" else f" (as box_order={order} reads the boxes)"
        raise ValueError(f"{error}{other}") from error
    return boxes


def is_stray(boxes: np.ndarray) -> np.ndarray:
    """Find boxes (..., 4) within the first pixel: among boxes in pixels, these are fractions."""
    ordered = (boxes[..., 2:] > boxes[..., :2]).all(-1)
    return np.asarray(ordered & (boxes <= 1).all(-1) & (boxes >= 0).all(-1))


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


def fractions_of(boxes: np.ndarray, size: tuple[int, int], pixels: bool, where: str) -> np.ndarray:
    """Turn boxes (..., 4) into fractions of a picture that was found for them, and check them.

    Raises:
        ValueError: as for `check_boxes`; boxes in pixels may be those of a larger picture.
    """
    try:
        check_boxes(boxes, size, where, pixels)
    except ValueError as error:
        if not pixels:
            raise
        raise ValueError(
            f"{error}. If the boxes are those of a larger picture, give the pictures in that size"
        ) from error
    return boxes / np.array([*size, *size]) if pixels else boxes


def check_boxes(
    boxes: np.ndarray,
    size: tuple[float, float] | None,
    where: str,
    pixels: bool | None = None,
) -> int:
    """Check that boxes (..., 4) are finite and lie in their picture as x1, y1, x2, y2.

    A box may exceed the picture by a pixel or 5 %, because detectors round. Boxes in pixels are not
    compared with a picture of unknown size.

    Args:
        boxes: x1, y1, x2, y2 in pixels or fractions.
        size: width and height of the picture, or None if unknown.
        where: beginning of the message.
        pixels: whether the boxes are in pixels; None = as `in_pixels` tells.

    Returns:
        The number of boxes that end before they begin; they overlap nothing.

    Raises:
        ValueError: a value is NaN or infinite, a box lies outside of the picture, some boxes are in
            pixels and others in fractions, many boxes seem to be in percent, or the boxes seem to
            be x, y, width, height: some end before they begin, and all lie in the picture if they
            are read as such.
    """
    boxes = np.asarray(boxes, np.float64)
    if not np.isfinite(boxes).all():
        raise ValueError(f"{where}: boxes with NaN or infinite values")
    pixels = in_pixels(boxes) if pixels is None else pixels
    if in_pixels(boxes) and (stray := is_stray(boxes)).any():
        raise ValueError(
            f"{where}: box {_shown(boxes[stray][0])} is in fractions, {_shown(boxes[~stray][0])} "
            "in pixels; use one unit"
        )
    slack = 1.0 if pixels else 0.01
    backwards = (boxes[..., 2:] < boxes[..., :2] - slack).any(-1)
    if pixels and size is None:
        return int(backwards.sum())
    limit = np.array([*size, *size]) if pixels and size is not None else np.ones(4)
    most = 1.05 * limit + pixels
    shape = f"the picture of {size[0]:g} x {size[1]:g} pixels" if pixels and size else "0 to 1"
    outside = ((boxes > most) | (boxes < limit - most)).any(-1)
    if outside.any():
        turned = boxes[..., [1, 0, 3, 2]]
        hint = ""
        if not ((turned > most) | (turned < limit - most)).any():
            hint = (
                "; all fit as y1, x1, y2, x2, TensorFlow's order (swap the columns first, or give "
                "box_order=yxyx), or if width and height are swapped"
            )
        raise ValueError(
            f"{where}: box {_shown(boxes[outside][0])} reaches out of {shape}; expected x1, y1, "
            f"x2, y2 in pixels of that picture, or fractions of its width and height{hint}"
        )
    if pixels and size is not None and seems_percent(boxes, size):
        raise ValueError(
            f"{where}: all {len(boxes)} boxes lie within the first 100 pixels of {shape}; they "
            "seem to be in percent: divide them by 100"
        )
    if backwards.any() and (boxes[..., :2] + boxes[..., 2:] <= most[:2]).all():
        raise ValueError(
            f"{where}: box {_shown(boxes[backwards][0])} ends before it begins; the boxes seem to "
            "be x, y, width, height, expected x1, y1, x2, y2: add x and y to the last two first, "
            "or give box_order=xywh"
        )
    return int(backwards.sum())


def seems_percent(boxes: np.ndarray, size: tuple[float, float], least: int = SEVERAL) -> bool:
    """Tell whether boxes (n, 4) of a wide picture all lie within 0 to 100, and reach far."""
    far = np.max(boxes, initial=0)
    return bool(len(boxes) >= least and min(size) >= WIDE and PERCENT / 2 < far <= PERCENT)


def in_order(boxes: np.ndarray) -> np.ndarray:
    """Order the corners of boxes (..., 4), so that x1 <= x2 and y1 <= y2.

    Other corners mean the same box; `check_boxes` has refused x, y, width, height.
    """
    one, other = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([np.minimum(one, other), np.maximum(one, other)], -1)


def _shown(box: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"


def overlaps(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Compute intersection over union: (..., R, 4) with (..., 4) -> (..., R).

    Coordinates are edges, so the width of a box is x2 - x1; `edges` converts boxes of inclusive
    pixels. A box without area overlaps nothing.
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
    """Convert boxes of inclusive pixels to edges, which adds 1 to x2 and y2.

    Overlaps then agree with code that adds 1 to widths and heights of inclusive pixels.
    """
    return np.asarray(boxes, np.float64) + np.array([0, 0, 1, 1])
