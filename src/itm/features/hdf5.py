"""Read HDF5 files: all images in one array, or arrays or a group per image; needs h5py."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from itm.features.arrays import first
from itm.features.records import Record
from itm.utils.readers import reader
from itm.utils.safe_pickle import read_arrays

FEATURES = ("features", "image_features", "feature", "feat", "x")
BOXES = ("boxes", "image_bb", "bbox", "box")
IDS = ("ids", "image_ids", "image_id", "names")
SUFFIX = re.compile(r"(.+?)_(?:image_features|features|feature|feat)$")  # 12_features
RANGES = ("pos_boxes",)  # (N, 2): first and last + 1 row of each image, for packed regions


@reader()
def read_hdf5(path: str | Path) -> Iterator[Record]:
    """Read the images of a file.

    It holds one of:

    - `features` (N, R, F), or (rows, F) with `pos_boxes` (N, 2), the rows of each image; optional
      `boxes`; and the images' names in `ids` (N,), or in `FILE_imgid2idx.pkl`;
    - a data set per image, named as the image;
    - data sets `NAME_features` and optional `NAME_boxes` per image;
    - a group per image with `features` and optional `boxes`, and image_w and image_h as attributes;
    - groups `features` and optional `boxes` with a data set per image.

    `FEATURES`, `BOXES` and `IDS` list other names for these arrays.

    Raises:
        ImportError: h5py is missing.
        ValueError: not an HDF5 file, or another structure.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 needs h5py: pip install 'itm-lightning[features]'") from error
    try:
        file = h5py.File(Path(path).expanduser(), "r")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"source={path}: no such file") from error
    except OSError as error:
        raise ValueError(f"{path} is not a complete HDF5 file ({error})") from error
    with file:
        name, boxes = first(file, FEATURES), first(file, BOXES)
        if name is not None and hasattr(file[name], "keys"):
            yield from _by_kind(file[name], file[boxes] if boxes else {})
        elif name is not None:
            yield from _rows(file, name, path)
        elif any(SUFFIX.match(label) for label in file):
            yield from _by_suffix(file, path)
        else:
            yield from _images(file, path)


def _rows(file: Any, name: str, path: str | Path) -> Iterator[Record]:
    features, boxes, ranges = file[name], first(file, BOXES), first(file, RANGES)
    spans = None if ranges is None else file[ranges][:]
    count = len(features) if spans is None else len(spans)
    ids = first(file, IDS)
    labels = _pickled_ids(Path(path), count) if ids is None else file[ids][:]
    if labels is None or len(labels) != count:
        raise ValueError(
            f"{path}: {name} {features.shape} needs one name per image in one of {', '.join(IDS)}; "
            f"found {', '.join(file)}"
        )
    for row, cell in enumerate(labels):
        label = cell.decode("utf-8") if isinstance(cell, bytes) else str(cell)
        at = row if spans is None else slice(*map(int, spans[row][:2]))
        yield Record(label, features[at], None if boxes is None else file[boxes][at])


def _pickled_ids(path: Path, count: int) -> list[Any] | None:
    """Read the images from {image: row} in FILE_imgid2idx.pkl beside FILE.hdf5, or None."""
    folder = path.expanduser().parent
    file = folder / f"{path.stem}_imgid2idx.pkl"
    if not file.is_file():
        return None
    rows = read_arrays(file)
    if not isinstance(rows, Mapping) or sorted(rows.values()) != list(range(count)):
        raise ValueError(f"{file}: expected {{image: row}} with the rows 0 to {count - 1}")
    return sorted(rows, key=lambda image: rows[image])


def _by_kind(features: Any, boxes: Mapping[str, Any]) -> Iterator[Record]:
    for label in features:
        yield Record(
            label, features[label][()], np.asarray(boxes[label]) if label in boxes else None
        )


def _by_suffix(file: Any, path: str | Path) -> Iterator[Record]:
    found = {match[1]: label for label in file if (match := SUFFIX.match(label))}
    for label in file:
        heads = [label[:at] for at, letter in enumerate(label) if letter == "_"]
        if not any(head in found for head in heads):
            raise ValueError(
                f"{path}: {label} belongs to none of the images that have NAME_features, such as "
                f"{next(iter(found.values()))}"
            )
    for image, label in found.items():
        boxes = first(file, tuple(f"{image}_{name}" for name in BOXES))
        yield Record(image, file[label][()], None if boxes is None else np.asarray(file[boxes]))


def _images(file: Any, path: str | Path) -> Iterator[Record]:
    for label, node in file.items():
        if not hasattr(node, "keys"):
            yield Record(label, node[()])
            continue
        name, boxes = first(node, FEATURES), first(node, BOXES)
        if name is None:
            raise ValueError(
                f"{path}: {label} holds {', '.join(node)}; expected one of {', '.join(FEATURES)}"
            )
        size = None
        if "image_w" in node.attrs and "image_h" in node.attrs:
            size = float(node.attrs["image_w"]), float(node.attrs["image_h"])
        yield Record(
            label, node[name][()], None if boxes is None else np.asarray(node[boxes]), size
        )
