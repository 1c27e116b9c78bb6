"""Read bottom-up-attention TSV files: one image a line, arrays of float32 in base64.

Source: the files of Anderson et al., CVPR 2018 (six columns), and those with classes and attributes
as Tan and Bansal, EMNLP 2019, publish them (ten columns).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from itm.features.records import Record
from itm.utils.readers import reader

COLUMNS = {
    6: ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features"),
    10: (
        "image_id", "image_h", "image_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf",
        "num_boxes", "boxes", "features",
    ),
}  # fmt: skip


@reader()
def read_tsv(path: str | Path) -> Iterator[Record]:
    """Read the images of a file, one line in memory at a time; the first line may name the columns.

    Raises:
        ValueError: another number of columns, or arrays of another size than the line says.
    """
    path, columns = Path(path), None
    with path.open(encoding="utf-8", newline="\n") as file:
        for line, text in enumerate(file, 1):
            cells = text.rstrip("\r\n").split("\t")
            if line == 1 and "features" in cells:
                columns = tuple("image_id" if c == "img_id" else c for c in cells)
                continue
            columns = columns or COLUMNS.get(len(cells))
            if columns is None or len(cells) != len(columns):
                raise ValueError(
                    f"{path}:{line}: {len(cells)} columns; expected 6 or 10 as in "
                    "bottom-up-attention files, or a first line with the columns' names"
                )
            yield _record(dict(zip(columns, cells, strict=True)), f"{path}:{line}")


def _record(cells: dict[str, str], where: str) -> Record:
    try:
        count = int(cells["num_boxes"])
        size = float(cells["image_w"]), float(cells["image_h"])
        boxes, features = _floats(cells["boxes"]), _floats(cells["features"])
        return Record(cells["image_id"], features.reshape(count, -1), boxes.reshape(count, 4), size)
    except (KeyError, ValueError, binascii.Error) as error:
        raise ValueError(
            f"{where}: not a line of bottom-up-attention features ({error})"
        ) from error


def _floats(cell: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(cell, validate=True), np.float32)
