"""Read HDF5 files: all images in one array, or one array or group per image; needs h5py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from itm.features.arrays import first
from itm.features.records import Record

FEATURES = ("features", "image_features", "feature", "feat", "x")
BOXES = ("boxes", "image_bb", "bbox", "box")
IDS = ("ids", "image_ids", "image_id", "names")


def read_hdf5(path: str | Path) -> Iterator[Record]:
    """Read the images of a file.

    It holds either `features` (N, R, F) with `ids` (N,) and optional `boxes` (N, R, 4); or a data
    set per image, named as the image; or a group per image with `features` and optional `boxes`
    and the attributes `image_w` and `image_h`. `FEATURES`, `BOXES` and `IDS` list other names for
    these arrays.

    Raises:
        ImportError: h5py is missing.
        ValueError: another structure.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 needs h5py: pip install 'itm-lightning[features]'") from error
    with h5py.File(path, "r") as file:
        name = first(file, FEATURES)
        yield from _rows(file, name, path) if name else _images(file, path)


def _rows(file: Any, name: str, path: str | Path) -> Iterator[Record]:
    features, ids, boxes = file[name], first(file, IDS), first(file, BOXES)
    if ids is None or len(file[ids]) != len(features):
        raise ValueError(
            f"{path}: {name} {features.shape} needs one name per image in one of {', '.join(IDS)}; "
            f"found {', '.join(file)}"
        )
    for row, cell in enumerate(file[ids][:]):
        label = cell.decode("utf-8") if isinstance(cell, bytes) else str(cell)
        yield Record(label, features[row], None if boxes is None else file[boxes][row])


def _images(file: Any, path: str | Path) -> Iterator[Record]:
    for label, node in file.items():
        if not hasattr(node, "keys"):
            yield Record(label, node[()])
            continue
        name, boxes = first(node, FEATURES), first(node, BOXES)
        if name is None:
            raise ValueError(
                f"{path}: {label} holds {', '.join(node)}, none of {', '.join(FEATURES)}"
            )
        size = None
        if "image_w" in node.attrs and "image_h" in node.attrs:
            size = float(node.attrs["image_w"]), float(node.attrs["image_h"])
        yield Record(
            label, node[name][()], None if boxes is None else np.asarray(node[boxes]), size
        )
