"""The units of boxes x1, y1, x2, y2: pixels, or fractions of width and height."""

import numpy as np

LIMIT = 2  # rounding brings fractions a little above 1; no picture is two pixels wide


def in_pixels(boxes: np.ndarray) -> bool:
    """Tell whether the boxes (..., 4) of an image, or of the first 64 images, are in pixels."""
    return bool(np.nanmax(np.asarray(boxes[:64], np.float64), initial=0) > LIMIT)
