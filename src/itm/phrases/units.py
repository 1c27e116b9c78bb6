"""What both sources of annotated phrases need: ids, units of boxes, and text files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from itm.data.boxes import Box, in_pixels
from itm.data.layout import Split


def ids_of(split: Split) -> list[str]:
    """Return the images' ids.

    Raises:
        ValueError: the split has none.
    """
    if split.ids is None:
        raise ValueError(
            f"{split.folder} has no {split.name}_ids.txt; without ids, phrases cannot be "
            "assigned to images"
        )
    return split.ids


def in_units(box: Box, size: tuple[int, int], split: Split) -> Box:
    """Convert a box up to its edges from pixels to fractions if the region boxes are fractions."""
    found = np.array(box, np.float64)
    if split.boxes is not None and not in_pixels(split.boxes):
        found = (found / np.array([*size, *size])).clip(0, 1)
    x1, y1, x2, y2 = (float(value) for value in found)
    return x1, y1, x2, y2


def read_annotation(path: Path) -> str:
    """Read a text in UTF-8.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; download it, or leave its image out")
    try:
        return path.read_text(encoding="utf-8-sig")  # editors on Windows begin with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error
