"""Read a folder with one .npy or .npz file per image, named as the image."""

from __future__ import annotations

import zipfile
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np

from itm.data.layout import read_array
from itm.features.records import Record
from itm.utils.archive import read_npz

FEATURES = ("features", "feature", "feat", "x", "arr_0")  # names in files of public extractors
BOXES = ("boxes", "bbox", "box")
SIZE = ("image_w", "image_h")
COUNTS = ("num_boxes", "num_bbox")  # regions of an image; rows behind them are padding


def read_arrays(folder: str | Path) -> Iterator[Record]:
    """Read the files below a folder, sorted by name; each is opened when its turn comes.

    A .npz may hold the features under any of `FEATURES`, boxes under any of `BOXES`, and image_w
    and image_h. Other members, such as pickled objects, are not read.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the folder has no such files, or a file is damaged or holds other arrays.
    """
    folder = Path(folder).expanduser()
    if not folder.exists():
        raise FileNotFoundError(f"source={folder}: no such folder")
    if not folder.is_dir():
        raise ValueError(f"source={folder} is a file, expected a folder of .npy or .npz files")
    paths = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in (".npy", ".npz") and p.is_file()
    )
    if not paths:
        raise ValueError(f"{folder} holds no .npy or .npz file")
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.suffix.lower() == ".npy":
            yield Record(name, np.asarray(read_array(path)))
        else:
            yield _from_npz(path, name)


def _from_npz(path: Path, image: str) -> Record:
    try:
        arrays = read_npz(path, (*FEATURES, *BOXES, *SIZE, *COUNTS))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    for names in (FEATURES, BOXES):
        if len(both := [name for name in names if name in arrays]) > 1:
            raise ValueError(f"{path} cannot be used: it holds both {both[0]} and {both[1]}")
    name, boxes = first(arrays, FEATURES), first(arrays, BOXES)
    if name is None:
        with zipfile.ZipFile(path) as archive:
            held = ", ".join(member.removesuffix(".npy") for member in archive.namelist())
        raise ValueError(
            f"{path} cannot be used: expected one of {', '.join(FEATURES)}, found {held}"
        )
    sides = [arrays[side] for side in SIZE if side in arrays]
    if len(sides) == 1 or any(side.size != 1 or side.dtype.kind not in "iuf" for side in sides):
        raise ValueError(f"{path} cannot be used: expected one number each in image_w and image_h")
    size = (float(sides[0].item()), float(sides[1].item())) if sides else None
    rows, places = arrays[name], None if boxes is None else arrays[boxes]
    if counted := first(arrays, COUNTS):
        count = arrays[counted]
        if count.size != 1 or count.dtype.kind not in "iu" or not 1 <= count.item() <= len(rows):
            raise ValueError(
                f"{path} cannot be used: {counted}={count} with {name} {rows.shape}; expected the "
                "number of its rows that are regions"
            )
        rows = rows[: count.item()]
        places = None if places is None else places[: count.item()]
    return Record(image, rows, places, size)


def first(names: Container[str], wanted: tuple[str, ...]) -> str | None:
    """Find the first of the wanted names that a file has, or None."""
    return next((name for name in wanted if name in names), None)
