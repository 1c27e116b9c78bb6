"""Read HDF5 files: all images in one array, or arrays or a group per image; needs h5py."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from itm.features.arrays import COUNTS, SIZE, first
from itm.features.hdf5_nodes import Group
from itm.features.records import Record
from itm.utils.extras import install
from itm.utils.readers import reader
from itm.utils.safe_pickle import read_arrays

FEATURES = ("features", "image_features", "feature", "feat", "x")
BOXES = ("boxes", "image_bb", "bbox", "box")
SPATIAL = "spatial_features"  # (..., 6): x1, y1, x2, y2, width, height as fractions
IDS = ("ids", "image_ids", "image_id", "names")
SUFFIX = re.compile(r"(.+?)_(?:image_features|features|feature|feat)$")  # 12_features
RANGES = ("pos_boxes",)  # (N, 2): first and last + 1 row of each image, for packed regions


@reader()
def read_hdf5(path: str | Path) -> Iterator[Record]:
    """Read the images of a file, and nothing outside of the file, see `Group`.

    The file has one of these structures:

    - `features` (N, R, F), or (rows, F) with `pos_boxes` (N, 2), the rows of each image; optional
      `boxes` or `spatial_features`; and the images' names in `ids` (N,), or in
      `FILE_imgid2idx.pkl`;
    - a data set per image, named as the image;
    - data sets `NAME_features` and optional `NAME_boxes` per image;
    - a group per image with `features` and optional `boxes`, and image_w and image_h as attributes;
    - groups `features` and optional `boxes` with a data set per image.

    `FEATURES`, `BOXES` and `IDS` list other names for these arrays.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: h5py is missing.
        ValueError: the file is not HDF5, is damaged, has another structure, or keeps parts in
            other files.
    """
    try:
        import h5py  # late: optional
    except ImportError as error:
        raise ImportError(f"HDF5 needs h5py: {install('features')}") from error
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"source={path}: no such file")
    if not path.is_file():
        raise ValueError(f"source={path} is a folder or pipe, expected an HDF5 file")
    try:
        with h5py.File(path, "r") as file:
            yield from _read(Group(file, path), path)
    except OSError as error:
        raise ValueError(f"{path} is not a complete HDF5 file ({error})") from error
    except Exception as error:  # a damaged file can raise anything
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"{path} cannot be read: {error or type(error).__name__}") from error


def _read(file: Group, path: Path) -> Iterator[Record]:
    name, boxes = first(file, FEATURES), first(file, BOXES)
    if name is not None and isinstance(file[name], Group):
        return _by_kind(file[name], file[boxes] if boxes else {})
    if name is not None:
        return _rows(file, name, path)
    if any(SUFFIX.match(label) for label in file):
        return _by_suffix(file, path)
    return _images(file, path)


def _rows(file: Group, name: str, path: Path) -> Iterator[Record]:
    features, ranges, own_boxes = file[name], first(file, RANGES), first(file, BOXES)
    spans = None if ranges is None else _spans(np.asarray(file[ranges][()]), features, path)
    count = len(features) if spans is None else len(spans)
    ids = first(file, IDS)
    labels = _pickled_ids(path, count) if ids is None else file[ids][()]
    if labels is None or np.ndim(labels) != 1 or len(labels) != count:
        found = "" if labels is None else f" {ids} {np.shape(labels)}"
        raise ValueError(
            f"{path}: {name} {features.shape} needs one name per image in one of {', '.join(IDS)}, "
            f"and the images must be the first axis; found {', '.join(file)}{found}"
        )
    if (
        SPATIAL in file
    ):  # of the same images as fractions, where `image_bb` has pixels without sizes
        own_boxes = SPATIAL
    boxes = None if own_boxes is None else file[own_boxes]
    if boxes is not None and len(boxes) != len(features):
        raise ValueError(
            f"{path}: {own_boxes} {boxes.shape} and {name} {features.shape} differ in their number "
            "of images"
        )
    for other in IDS:
        if other in file and ids and not np.array_equal(file[other][()], labels):
            raise ValueError(f"{path}: {ids} and {other} name the images differently; keep one")
    sizes = [_numbers(file, name, count, path) for name in SIZE if name in file]
    counted = first(file, COUNTS)
    counts = None if counted is None or spans else _numbers(file, counted, count, path)
    if counts is not None and not (counts.min() >= 1 and counts.max() <= features.shape[1]):
        raise ValueError(f"{path}: {counted} must lie between 1 and {features.shape[1]}")
    for row, cell in enumerate(labels):
        label = cell.decode("utf-8") if isinstance(cell, bytes) else str(cell)
        at = row if spans is None else slice(*spans[row])
        kept = slice(None if counts is None else int(counts[row]))
        own = None if boxes is None else boxes[at][kept, :4]
        size = (float(sizes[0][row]), float(sizes[1][row])) if len(sizes) == 2 else None
        yield Record(label, features[at][kept] if features.ndim == 3 else features[at], own, size)


def _numbers(file: Group, name: str, count: int, path: Path) -> np.ndarray:
    """Read one number for each image."""
    found = np.ravel(file[name][()])
    if found.shape != (count,) or found.dtype.kind not in "iuf":
        raise ValueError(f"{path}: {name} is {found.dtype} {found.shape}, expected ({count},)")
    return found


def _spans(rows: np.ndarray, features: Any, path: Path) -> list[tuple[int, int]]:
    """Check the rows of packed images: whole numbers, not empty, within the features."""
    if rows.ndim != 2 or rows.shape[1] < 2 or rows.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: {RANGES[0]} is {rows.dtype} {rows.shape}, expected whole numbers (images, 2)"
        )
    for image, (start, stop) in enumerate(rows[:, :2]):
        if not 0 <= start < stop <= len(features):
            raise ValueError(
                f"{path}: {RANGES[0]} gives image {image} the rows {start} to {stop} of features "
                f"{features.shape}"
            )
    if len(rows) > 1 and (rows[:-1, 1] + 1 == rows[1:, 0]).all():
        raise ValueError(
            f"{path}: {RANGES[0]} seems to give the last row of each image, expected the row "
            "behind it: add 1 to the second column"
        )
    return [(int(start), int(stop)) for start, stop in rows[:, :2]]


def _pickled_ids(path: Path, count: int) -> list[Any] | None:
    """Read the images from {image: row} in FILE_imgid2idx.pkl beside FILE.hdf5, or None."""
    file = path.parent / f"{path.stem}_imgid2idx.pkl"
    if not file.is_file():
        return None
    rows = read_arrays(file)
    if not isinstance(rows, Mapping) or sorted(rows.values()) != list(range(count)):
        raise ValueError(f"{file}: expected {{image: row}} with the rows 0 to {count - 1}")
    return sorted(rows, key=lambda image: rows[image])


def _by_kind(features: Group, boxes: Mapping[str, Any]) -> Iterator[Record]:
    for label in features:
        yield Record(label, features[label][()], boxes[label][()] if label in boxes else None)


def _by_suffix(file: Group, path: Path) -> Iterator[Record]:
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
        yield Record(image, file[label][()], None if boxes is None else file[boxes][()])


def _images(file: Group, path: Path) -> Iterator[Record]:
    for label, node in file.items():
        if not isinstance(node, Group):
            yield Record(label, node[()])
            continue
        name, boxes = first(node, FEATURES), first(node, BOXES)
        if name is None:
            raise ValueError(
                f"{path}: {label} holds {', '.join(node)}; expected one of {', '.join(FEATURES)}"
            )
        width, height = node.number("image_w"), node.number("image_h")
        size = None if width is None or height is None else (width, height)
        yield Record(label, node[name][()], None if boxes is None else node[boxes][()], size)
