"""Check, convert and compare boxes x1, y1, x2, y2 in pixels or fractions; y points down."""

from collections.abc import Sequence

import numpy as np

from itm.utils.checks import check_choice

Box = tuple[float, float, float, float]

ROUNDED = 1.005  # boxes end so much behind 100 % because of rounding
# Scale of other units than pixels -> sides of pictures that have boxes beyond so many pixels, the
# share of the scale that boxes reach beyond, and its name.
SCALES = {100: (200, 0.5, "percent"), 1000: (1400, 0.9, "thousandths")}
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
        check_boxes(boxes, size, where, option=True)
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
    option: bool = False,
) -> int:
    """Check that boxes (..., 4) are finite and lie in their picture as x1, y1, x2, y2.

    A box may exceed the picture by a pixel or 5 %, because detectors round. Boxes in pixels are not
    compared with a picture of unknown size.

    Args:
        boxes: x1, y1, x2, y2 in pixels or fractions.
        size: width and height of the picture, or None if unknown.
        where: beginning of the message.
        pixels: whether the boxes are in pixels; None = as `in_pixels` tells.
        option: whether the user can give `box_order=`; messages then name it.

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
            way = ", or give box_order=yxyx" if option else ""
            hint = (
                "; all fit as y1, x1, y2, x2, TensorFlow's order (swap the columns first"
                f"{way}), or if width and height are swapped"
            )
        raise ValueError(
            f"{where}: box {_shown(boxes[outside][0])} reaches out of {shape}; expected x1, y1, "
            f"x2, y2 in pixels of that picture, or fractions of its width and height{hint}"
        )
    if pixels and size is not None and (scale := find_scale([(boxes, min(size))], len(boxes))):
        raise ValueError(
            f"{where}: all {len(boxes)} boxes lie within the first {scale} pixels of {shape}; they "
            f"seem to be in {SCALES[scale][2]}: divide them by {scale}"
        )
    if backwards.any() and (boxes[..., :2] + boxes[..., 2:] <= most[:2]).all():
        way = ", or give box_order=xywh" if option else ""
        raise ValueError(
            f"{where}: box {_shown(boxes[backwards][0])} ends before it begins; the boxes seem to "
            "be x, y, width, height, expected x1, y1, x2, y2: add x and y to the last two first"
            f"{way}"
        )
    return int(backwards.sum())


def find_scale(
    images: Sequence[tuple[np.ndarray, float]], count: int | None = None, least: int = SEVERAL
) -> int:
    """Find the scale, 100 or 1000, of boxes that are neither in pixels nor in fractions.

    The boxes of wide pictures then all lie within 0 to the scale, and reach far.

    Args:
        images: boxes (n, 4) in pixels, or their largest corner, and the smaller side, per picture.
        count: the number of boxes that must be at least `least`; None = that of wide pictures.
        least: see `count`.

    Returns:
        The scale, or 0 if the boxes may be in pixels.
    """
    for scale, (wide, far, _) in SCALES.items():
        most = [np.max(boxes, initial=0) for boxes, side in images if side >= wide]
        enough = (len(most) if count is None else count) >= least
        if most and enough and far * scale < max(most) <= ROUNDED * scale:
            return scale
    return 0


def check_scale(images: Sequence[tuple[np.ndarray, float]]) -> None:
    """Check the boxes of all images together, since one may have few.

    Args:
        images: as in `find_scale`.

    Raises:
        ValueError: the boxes of ten or more wide pictures seem to be in percent or thousandths.
    """
    if scale := find_scale(images):
        wide, _, name = SCALES[scale]
        count = sum(side >= wide for _, side in images)
        raise ValueError(
            f"the boxes of all {count} images of {wide} pixels or more lie within their first "
            f"{scale} pixels; they seem to be in {name}: divide them by {scale}"
        )


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
