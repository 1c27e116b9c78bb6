"""Make regions without a detector: place windows on the picture, pool a feature map over boxes."""

from collections.abc import Sequence

import numpy as np

# Whole picture, upright strips, level strips, quarters, small windows: 1 + 3 + 3 + 9 + 20 = 36.
LEVELS = ((1, 1), (3, 1), (1, 3), (3, 3), (5, 4))


def windows(levels: Sequence[Sequence[int]] = LEVELS, overlap: float = 0.5) -> np.ndarray:
    """Compute the boxes of evenly spaced windows.

    Args:
        levels: (columns, rows) of windows, from coarse to fine.
        overlap: share of a window's side that its neighbour covers too; 0 = a grid.

    Returns:
        (R, 4) float32 x1, y1, x2, y2, fractions of width and height.

    Raises:
        ValueError: no levels, a level without windows, or an overlap outside [0, 1).
    """
    pairs = isinstance(levels, Sequence) and len(levels) > 0 and all(map(_is_pair, levels))
    if not pairs or not 0 <= overlap < 1:
        raise ValueError(
            f"windows={levels}, overlap={overlap}: expected pairs [columns, rows] of whole numbers "
            "of at least 1, and an overlap from 0 to below 1"
        )
    boxes = []
    for columns, rows in levels:
        (x1, x2), (y1, y2) = _spans(columns, overlap), _spans(rows, overlap)
        boxes += [(x1[i], y1[j], x2[i], y2[j]) for j in range(rows) for i in range(columns)]
    return np.array(boxes, np.float32)


def _is_pair(level: object) -> bool:
    if not isinstance(level, Sequence) or len(level) != 2:
        return False
    return all(type(count) is int and count >= 1 for count in level)


def _spans(count: int, overlap: float) -> tuple[np.ndarray, np.ndarray]:
    size = 1 / (1 + (count - 1) * (1 - overlap))
    start = np.arange(count) * size * (1 - overlap)
    return start, start + size


def coverage(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Compute weights that pool a feature map over boxes: cells count by their covered area.

    Args:
        boxes: (..., R, 4), fractions. A box without area takes the cell at its centre.
        height: H, rows of the map.
        width: W, columns of the map.

    Returns:
        (..., R, H * W) float32, rows sum to 1.
    """
    boxes = np.asarray(boxes, np.float64)
    across = _covered(boxes[..., 0], boxes[..., 2], width)  # (..., R, W)
    down = _covered(boxes[..., 1], boxes[..., 3], height)  # (..., R, H)
    weights = (down[..., :, None] * across[..., None, :]).reshape(*boxes.shape[:-1], -1)
    return weights.astype(np.float32)


def _covered(low: np.ndarray, high: np.ndarray, cells: int) -> np.ndarray:
    """Compute how much of [low, high] lies in each of equal cells of [0, 1]: (..., cells)."""
    edges = np.linspace(0, 1, cells + 1)
    ends = np.minimum(high[..., None], edges[1:]), np.maximum(low[..., None], edges[:-1])
    length = np.clip(ends[0] - ends[1], 0, None)
    total = length.sum(-1, keepdims=True)
    centre = np.clip(((low + high) / 2 * cells).astype(int), 0, cells - 1)
    point = np.eye(cells)[centre]
    return np.where(total > 1e-9, length / np.where(total > 1e-9, total, 1), point)
