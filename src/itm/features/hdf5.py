"""Read HDF5 files: all images in one array, or arrays or a group per image; needs h5py."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from itm.features.cells import PICTURE
from itm.features.hdf5_nodes import Group
from itm.features.members import (
    BOXES,
    COUNTS,
    FEATURES,
    HEIGHTS,
    KNOWN,
    WIDTHS,
    first,
    make_record,
    some,
)
from itm.features.records import Record
from itm.utils.extras import install
from itm.utils.readers import reader
from itm.utils.safe_pickle import read_arrays

SPATIAL = "spatial_features"  # (..., 6): x1, y1, x2, y2, width, height as fractions
IDS = ("ids", "image_ids", "image_id", "names")
DEEPEST = 8  # folders in the name of an image
SUFFIX = re.compile(r"(.+?)_(?:image_features|features|feature|feat)$")  # 12_features
RANGES = ("pos_boxes",)  # (N, 2): first and last + 1 row of each image, for packed regions


@reader()
def read_hdf5(path: str | Path) -> Iterator[Record]:
    """Read the images of a file, and nothing outside of the file, see `Group`.

    The file has one of these structures:

    - `features` (N, R, F), or (rows, F) with `pos_boxes` (N, 2), the rows of each image; optional
      `boxes` or `spatial_features`; and the images' names in `ids` (N,), or in
      `FILE_imgid2idx.pkl`;
    - a data set per image, named as the image, also with folders: `val2014/1.jpg`;
    - data sets `NAME_features` and optional `NAME_boxes` per image;
    - a group per image with `features` and optional `boxes`;
    - groups `features` and optional `boxes` with a data set per image.

    Image sizes and numbers of regions may stand beside the features, in a group also as attributes.
    `itm.features.members` and `IDS` list other names for these arrays.

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
    name = first(file, FEATURES, str(path))
    if name is not None and isinstance(file[name], Group):
        return _by_kind(file, name, path)
    if name is not None:
        return _rows(file, name, path)
    if any(SUFFIX.match(label) for label in file):
        return _by_suffix(file, path)
    return _images(file, path)


def _rows(file: Group, name: str, path: Path) -> Iterator[Record]:
    features, ranges = file[name], first(file, RANGES, str(path))
    spans = None if ranges is None else _spans(np.asarray(file[ranges][()]), features, path)
    count = len(features) if spans is None else len(spans)
    labels = _labels(file, f"{name} {features.shape}", count, path)
    boxes = _boxes(file, name, features.shape, path)
    facts = {n[0]: _numbers(file, n, count, path) for n in (WIDTHS, HEIGHTS, COUNTS)}
    if spans is not None:
        _check_counts(facts.pop(COUNTS[0]), spans, path)
    for row, label in enumerate(labels):
        at = row if spans is None else slice(*spans[row])
        arrays = {kind: values[row] for kind, values in facts.items() if values is not None}
        arrays[name] = features[at]
        if boxes is not None:
            arrays[BOXES[0]] = boxes[at][..., :4]
        yield make_record(label, arrays, f"{path}: image {label}")


def _labels(file: Group, features: str, count: int, path: Path) -> list[str]:
    """Read the names of the images from the file, or from the pickle beside it."""
    given = {name: file[name][()] for name in IDS if name in file}
    pickled = _pickled_ids(path, count)
    if pickled is not None:
        given["the .pkl file"] = np.array(pickled)
    if not given or any(np.shape(found) != (count,) for found in given.values()):
        found = "".join(f" {name} {np.shape(values)}" for name, values in given.items())
        raise ValueError(
            f"{path}: {features} needs one name per image in one of {', '.join(IDS)}, "
            f"and the images must be the first axis; found {some(file)}{found}"
        )
    labels = {name: [_label(cell) for cell in values] for name, values in given.items()}
    (source, own), *others = labels.items()
    for other, names in others:
        if names != own:
            raise ValueError(f"{path}: {source} and {other} name the images differently; keep one")
    return own


def _label(cell: Any) -> str:
    """Convert the name of an image to text: 391895.0 is 391895."""
    if isinstance(cell, bytes):
        return cell.decode("utf-8")
    number = isinstance(cell, (float, np.floating)) and float(cell).is_integer()
    return str(int(cell) if number else cell)


def _boxes(file: Group, name: str, features: tuple[int, ...], path: Path) -> Any:
    """Open the boxes of all images: as many as features, 4 columns, or 6 of `SPATIAL`."""
    # Those are of the same images as fractions, where `image_bb` has pixels without sizes.
    own = SPATIAL if SPATIAL in file else first(file, BOXES, str(path))
    if own is None:
        return None
    boxes, columns = file[own], 6 if own == SPATIAL else 4
    if boxes.shape[:1] != features[:1]:
        raise ValueError(
            f"{path}: {own} {boxes.shape} and {name} {features} differ in their number of images"
        )
    if boxes.shape != (*features[:-1], columns):
        raise ValueError(
            f"{path}: {own} is {boxes.shape}, expected {(*features[:-1], columns)} for {name} "
            f"{features}"
        )
    if own == SPATIAL:
        rows = np.asarray(boxes[: min(64, len(boxes))], np.float64)
        if not np.allclose(rows[..., 4:], rows[..., 2:4] - rows[..., :2], atol=0.01):
            raise ValueError(
                f"{path}: the columns of {SPATIAL} are not x1, y1, x2, y2, width, height"
            )
    return boxes


def _numbers(file: Group, names: tuple[str, ...], count: int, path: Path) -> np.ndarray | None:
    """Read one number for each image, or None."""
    name = first(file, names, str(path))
    if name is None:
        return None
    found = np.ravel(file[name][()])
    if found.shape != (count,) or found.dtype.kind not in "iuf":
        raise ValueError(f"{path}: {name} is {found.dtype} {found.shape}, expected ({count},)")
    return found


def _spans(rows: np.ndarray, features: Any, path: Path) -> list[tuple[int, int]]:
    """Check the rows of packed images: whole numbers, not empty, within the features."""
    if rows.ndim != 2 or rows.shape[1] != 2 or rows.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: {RANGES[0]} is {rows.dtype} {rows.shape}, expected whole numbers (images, 2)"
        )
    for image, (start, stop) in enumerate(rows):
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
    used = np.bincount(
        np.concatenate([np.arange(start, stop) for start, stop in rows]),
        minlength=len(features),
    )
    if (used > 1).any():
        raise ValueError(
            f"{path}: {RANGES[0]} gives row {int(used.argmax())} of the features to two images"
        )
    if not used.all():
        print(f"left out: {int((used == 0).sum())} rows of {path} that belong to no image")
    return [(int(start), int(stop)) for start, stop in rows]


def _check_counts(counts: np.ndarray | None, spans: list[tuple[int, int]], path: Path) -> None:
    """Check that packed images have as many rows as the file says otherwise."""
    for image, (start, stop) in enumerate(spans):
        if counts is not None and counts[image] != stop - start:
            raise ValueError(
                f"{path}: image {image} has {counts[image]:g} regions, but {RANGES[0]} gives it "
                f"{stop - start} rows"
            )


def _pickled_ids(path: Path, count: int) -> list[Any] | None:
    """Read the images from {image: row} in FILE_imgid2idx.pkl beside FILE.hdf5, or None."""
    file = path.parent / f"{path.stem}_imgid2idx.pkl"
    if not file.is_file():
        return None
    rows = read_arrays(file)
    if not isinstance(rows, Mapping) or sorted(rows.values()) != list(range(count)):
        raise ValueError(f"{file}: expected {{image: row}} with the rows 0 to {count - 1}")
    return sorted(rows, key=lambda image: rows[image])


def _by_kind(file: Group, name: str, path: Path) -> Iterator[Record]:
    groups = {kind: file[kind] for kind in KNOWN if kind in file and isinstance(file[kind], Group)}
    for kind, group in groups.items():
        if missing := [label for label in group if label not in groups[name]]:
            raise ValueError(
                f"{path}: {kind}/{missing[0]} belongs to none of the images in {name}, such as "
                f"{next(iter(groups[name]), 'nothing')}"
            )
    for label in groups[name]:
        arrays = {kind: group[label][()] for kind, group in groups.items() if label in group}
        yield make_record(label, arrays, f"{path}: image {label}")


def _by_suffix(file: Group, path: Path) -> Iterator[Record]:
    found = {match[1]: label for label in file if (match := SUFFIX.match(label))}
    for label in file:
        heads = [label[:at] for at, letter in enumerate(label) if letter == "_"]
        if not any(head in found for head in heads):
            raise ValueError(
                f"{path}: {label} belongs to none of the images that have NAME_features, such as "
                f"{next(iter(found.values()))}"
            )
    for image in found:
        arrays = {kind: file[f"{image}_{kind}"][()] for kind in KNOWN if f"{image}_{kind}" in file}
        yield make_record(image, arrays, f"{path}: image {image}")


def _images(file: Group, path: Path, above: str = "") -> Iterator[Record]:
    for name, node in file.items():
        label = f"{above}{name}"
        if not isinstance(node, Group):
            yield Record(label, node[()])
            continue
        if above.count("/") < DEEPEST and node and all(PICTURE.fullmatch(own) for own in node):
            yield from _images(node, path, f"{label}/")  # names such as val2014/1.jpg
            continue
        arrays = {kind: node[kind][()] for kind in KNOWN if kind in node}
        facts = {kind: node.number(kind) for kind in (*COUNTS, *WIDTHS, *HEIGHTS)}
        arrays |= {kind: value for kind, value in facts.items() if value is not None}
        if not arrays:
            raise ValueError(
                f"{path}: {label} holds {some(node)}; expected the arrays of an image, one of "
                f"{', '.join(FEATURES)}"
            )
        yield make_record(label, arrays, f"{path}: image {label}")
