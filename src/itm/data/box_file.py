"""Read the boxes of a split's regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from itm.data.array_file import load_array
from itm.data.boxes import LIMIT, is_stray


def read_boxes(path: Path, features: np.ndarray, ims: Path) -> np.ndarray:
    """Read the boxes (rows, R, 4) of a split's regions into memory.

    Raises:
        ValueError: another shape, values that are not finite, boxes that end before they begin, or
            two units.
    """
    boxes = load_array(path)
    shape = (len(features), features.shape[1] if features.ndim == 3 else 1, 4)
    if boxes.shape != shape:
        raise ValueError(
            f"{path}: expected {shape} for {ims.name} {features.shape}, found {boxes.shape}"
        )
    _check(boxes, path)
    return boxes


def _check(boxes: np.ndarray, path: Path) -> None:
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
    stray = is_stray(rows) & pixels[:, None]
    if stray.any():
        raise ValueError(
            f"{path} row {_first(stray)}: box {rows[stray][0].tolist()} is in fractions, others of "
            "this row in pixels; use one unit"
        )
    negative = pixels & (rows.min((1, 2), initial=0) < -1 - 0.05 * size)
    if negative.any():
        raise ValueError(
            f"{path} row {_first(negative)}: pixels must not be negative, found "
            f"{rows[_first(negative)].min():g}"
        )
    outside = fractions[:, None, None] & ((rows > 1.05) | (rows < -0.05))
    if outside.any():
        raise ValueError(
            f"{path} row {_first(outside)}: fractions must lie between 0 and 1, found "
            f"{rows[outside][0]:g}"
        )
    if pixels.any() and fractions.any():
        raise ValueError(
            f"{path}: row {_first(pixels)} is in pixels, row {_first(fractions)} in fractions of "
            "the image; use one unit"
        )


def _first(wrong: np.ndarray) -> int:
    """Return the first row with a true value."""
    return int(np.flatnonzero(wrong.reshape(len(wrong), -1).any(1))[0])
