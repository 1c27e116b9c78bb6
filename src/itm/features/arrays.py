"""Read a folder with one .npy or .npz file per image, named as the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from itm.data.layout import read_array
from itm.features.records import Record

FEATURES = ("features", "feature", "feat", "x", "arr_0")  # of the public extractors
BOXES = ("boxes", "bbox", "box")


def read_arrays(folder: str | Path) -> Iterator[Record]:
    """Read the files below a folder, sorted by name; each is opened when its turn comes.

    A .npz may hold the features under any of `FEATURES`, boxes under any of `BOXES`, and image_w
    and image_h.

    Raises:
        ValueError: no such file, or a file that is broken or holds other arrays.
    """
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix in (".npy", ".npz"))
    if not paths:
        raise ValueError(f"{folder} holds no .npy or .npz file")
    for path in paths:
        if path.suffix == ".npy":
            yield Record(path.stem, np.asarray(read_array(path)))
            continue
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                yield _from_npz(path, file)
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise ValueError(f"{path} cannot be used: {error}") from error


def _from_npz(path: Path, file: Mapping[str, np.ndarray]) -> Record:
    name = first(file, FEATURES)
    if name is None:
        raise ValueError(f"expected one of {', '.join(FEATURES)}, found {', '.join(file)}")
    boxes = first(file, BOXES)
    size = None
    if "image_w" in file and "image_h" in file:
        size = float(file["image_w"]), float(file["image_h"])
    return Record(path.stem, file[name], None if boxes is None else file[boxes], size)


def first(file: Mapping[str, object], names: tuple[str, ...]) -> str | None:
    """Find the first of the names that a file has, or None."""
    return next((name for name in names if name in file), None)
