"""Find picture files, report those that cannot be used, and load pixels for the network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from itm.data.boxes import check_boxes, to_fractions
from itm.utils.picture_files import picture_files, read_picture, stored_size

ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
UNREAD = (".avif", ".heic", ".heif", ".jp2", ".jxl", ".svg", ".psd", ".tga", ".ico", ".pdf")
COARSE = 32  # JPEG files are tested by decoding them at about this side length


def find_pictures(folder: str | Path) -> dict[str, Path]:
    """Find all pictures below a folder: name relative to the folder -> file, sorted by name.

    Raises:
        FileNotFoundError: the folder does not exist or holds no picture.
        ValueError: the name of a picture cannot be written in a list: it is not UTF-8 or has a line
            break.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"images={folder}: no such folder")
    every = picture_files(folder, (*ENDINGS, *UNREAD))
    found = {name: path for name, path in every.items() if path.suffix.lower() in ENDINGS}
    if others := [name for name in every if name not in found]:
        print(
            f"left out: {len(others)} files of formats that are not read, such as "
            f"{', '.join(others[:3])}; convert them to .png or .jpg"
        )
    if not found:
        raise FileNotFoundError(f"images={folder} holds no picture ({', '.join(ENDINGS)})")
    _check_names(folder, found)
    return found


def _check_names(folder: Path, names: Iterable[str]) -> None:
    """Check that the names of files can be lines of `{split}_ids.txt`."""
    for name in names:
        if "\n" in name or "\r" in name:
            raise ValueError(
                f"the file name {name!r} below {folder} holds a line break; rename the file"
            )
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the file name {ascii(name)} below {folder} is not UTF-8, perhaps Latin-1; rename "
                f"the file, for example with convmv -f latin1 -t utf8 -r --notest {folder}"
            ) from error


def folder_of(pictures: Mapping[str, Path]) -> Path | None:
    """Return the folder that the names of pictures are relative to; None if paths end otherwise."""
    for name, path in pictures.items():
        parts = Path(name).parts
        return path.parents[len(parts) - 1] if path.parts[-len(parts) :] == parts else None
    return None


def load_pixels(path: Path, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Read a whole picture and resize it to a square.

    Returns:
        Pixels (S, S, 3) uint8, and the width and height of the picture as it is shown.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture, damaged, or too large; see `picture_files.read_picture`.
    """
    from PIL import Image  # late: Pillow is optional

    upright = read_picture(path)
    small = upright.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(small), upright.size  # a copy: tensors want memory they may write to


def inspect_pictures(
    pictures: Mapping[str, Path], workers: int
) -> tuple[dict[str, str], list[list[str]]]:
    """Decode each picture at its coarsest scale.

    Args:
        pictures: name -> file.
        workers: threads.

    Returns:
        Name -> why the picture cannot be read; and groups of names with equal pictures.
    """

    def look(path: Path) -> tuple[str, bytes]:
        try:
            shown = read_picture(path, least=COARSE)
        except (OSError, ValueError) as error:
            return str(error), b""
        return "", sha256(f"{shown.size}".encode() + shown.tobytes()).digest()

    with ThreadPoolExecutor(max(1, workers)) as pool:
        seen = dict(zip(pictures, pool.map(look, pictures.values()), strict=True))
    alike: dict[bytes, list[str]] = defaultdict(list)
    for name, (problem, content) in seen.items():
        if not problem:
            alike[content].append(name)
    broken = {name: problem for name, (problem, _) in seen.items() if problem}
    return broken, [names for names in alike.values() if len(names) > 1]


class PictureDataset(Dataset):
    """Load the row, pixels and boxes of each picture that is still to be extracted.

    Args:
        paths: all pictures of a split.
        rows: the pictures to load, in this order.
        size: S, side length in pixels.
        boxes: (R, 4) fractions for all pictures, or one (R, 4) of pixels or fractions for each of
            `paths`.
    """

    def __init__(
        self, paths: Sequence[Path], rows: Sequence[int] | np.ndarray, size: int, boxes: Any
    ):
        self.paths, self.rows, self.size, self.boxes = paths, rows, size, boxes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> tuple[int, np.ndarray, np.ndarray]:
        row = int(self.rows[at])
        pixels, size = load_pixels(self.paths[row], self.size)
        if isinstance(self.boxes, np.ndarray):
            return row, pixels, self.boxes
        if self._backward(row, size):
            raise ValueError(f"{self.paths[row]}: a box ends before it begins, x2 < x1 or y2 < y1")
        boxes = to_fractions(self.boxes[row], size)
        assert boxes is not None
        return row, pixels, boxes

    def _backward(self, row: int, size: tuple[int, int]) -> int:
        """Check the boxes of a picture; a detector may have read it without its orientation."""
        path, boxes = self.paths[row], self.boxes[row]
        try:
            return check_boxes(boxes, size, str(path), option=True)
        except ValueError as error:
            stored = stored_size(path)
            if stored == size or not _fits(boxes, stored):
                raise
            raise ValueError(
                f"{path}: the boxes fit the picture as it is stored, {stored[0]} x {stored[1]} "
                f"pixels, but its orientation tag turns it to {size[0]} x {size[1]}; give boxes of "
                "the turned picture, or turn the pixels and remove the tag before the boxes are "
                "found, as jpegtran or exiftran -a does"
            ) from error


def _fits(boxes: np.ndarray, size: tuple[int, int]) -> bool:
    try:
        return check_boxes(boxes, size, "boxes") == 0
    except ValueError:
        return False
