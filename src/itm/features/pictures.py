"""Find picture files, tell which are broken, and read their pixels for a loader."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from itm.data.boxes import to_fractions
from itm.data.pictures import as_shown

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def find_pictures(folder: str | Path) -> dict[str, Path]:
    """Find all pictures below a folder: name relative to the folder -> file, sorted by name.

    Raises:
        FileNotFoundError: no such folder, or no picture in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"images={folder}: no such folder")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS)
    if not paths:
        raise FileNotFoundError(f"images={folder} holds no picture ({', '.join(ENDINGS)})")
    return {path.relative_to(folder).as_posix(): path for path in paths}


def load_pixels(path: Path, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Read the whole picture, squeezed to a square.

    Returns:
        Pixels (S, S, 3) uint8, and the width and height of the file's picture.

    Raises:
        OSError: the picture cannot be read.
        ValueError: its pixels have 32 bits.
    """
    from PIL import Image

    with Image.open(path) as picture:
        upright = as_shown(picture)
        small = upright.resize((size, size), Image.Resampling.BICUBIC)
        return np.array(small), upright.size  # a copy: tensors want memory they may write to


def broken(paths: Sequence[Path], workers: int) -> dict[Path, str]:
    """Find the pictures that cannot be read, and why; each is decoded at its coarsest scale."""
    from PIL import Image

    def problem(path: Path) -> str | None:
        try:
            with Image.open(path) as picture:
                picture.draft("RGB", (32, 32))
                as_shown(picture)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return str(error) or type(error).__name__
        return None

    with ThreadPoolExecutor(max(1, workers)) as pool:
        return {p: why for p, why in zip(paths, pool.map(problem, paths), strict=True) if why}


class PictureDataset(Dataset):
    """Load the row, pixels and boxes of each picture that is still to be extracted.

    Args:
        paths: all pictures of a split.
        rows: which of them, in order.
        size: S, pixels of a side.
        boxes: (R, 4) fractions for all, or one (R, 4) of pixels or fractions for each of `paths`.
    """

    def __init__(
        self, paths: Sequence[Path], rows: Sequence[int] | np.ndarray, size: int, boxes: Any
    ):
        self.paths, self.rows, self.size, self.boxes = paths, rows, size, boxes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> tuple[int, np.ndarray, np.ndarray]:
        row = int(self.rows[at])
        try:
            pixels, size = load_pixels(self.paths[row], self.size)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.paths[row]} cannot be read ({error})") from error
        if isinstance(self.boxes, np.ndarray):
            return row, pixels, self.boxes
        boxes = to_fractions(self.boxes[row], size)
        assert boxes is not None
        return row, pixels, boxes
