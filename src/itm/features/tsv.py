"""Read TSV files of region features: one image per line, arrays of float32 in base64.

Sources: bottom-up attention (Anderson et al., CVPR 2018; six columns), with classes and attributes
(Tan and Bansal, EMNLP 2019; ten columns), and VinVL (Zhang et al., CVPR 2021; two or three).
"""

from __future__ import annotations

import base64
import binascii
import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from itm.features.records import Record
from itm.utils.contents import describe_content
from itm.utils.readers import reader

COLUMNS = {
    2: ("image_id", "json"),
    3: ("image_id", "num_boxes", "features"),
    6: ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features"),
    10: (
        "image_id", "image_h", "image_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf",
        "num_boxes", "boxes", "features",
    ),
}  # fmt: skip
ALIASES = {
    "img_id": "image_id", "img_w": "image_w", "img_h": "image_h", "width": "image_w",
    "height": "image_h",
}  # fmt: skip
LARGEST = 1e15  # of a feature; bytes of other types become larger values
LARGEST_HALF = 8192  # of a feature in float16; of a float32, one lower half in six is larger
ROUNDED = 0x1FFF  # bits of the lower half of a float32 that are zero if it was a float16
ENOUGH = 200  # numbers that tell the type of the bytes
SMALLEST = 1e-30  # the largest of numbers in the other byte order is smaller, if they were rounded
SOME = 16  # numbers whose lower halves are all zero if they are float64
VINVL = 2054  # 2048 features, and x1, y1, x2, y2, width, height as fractions


@reader()
def read_tsv(path: str | Path) -> Iterator[Record]:
    """Read the images of a file, one line in memory at a time; the first line may name the columns.

    Lines of VinVL are `id, n, base64` or `id, {"num_boxes": n, "features": base64}`; their last six
    columns become the boxes.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line has another number of columns, or arrays of another size than it says.
    """
    path, columns, empty = Path(path).expanduser(), None, True
    if not path.exists():
        raise FileNotFoundError(f"source={path}: no such file")
    if not path.is_file():
        raise ValueError(f"source={path} is a folder or pipe, expected a .tsv file")
    with path.open("rb") as file:
        for line, content in enumerate(file, 1):
            if line == 1:
                content = content.removeprefix(BOM_UTF8)
                if kind := describe_content(content):
                    raise ValueError(f"{path}:1: not UTF-8, so no file of features, but {kind}")
            try:
                cells = content.decode("utf-8").rstrip("\r\n").split("\t")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{line}: not UTF-8, so no file of features") from error
            if line == 1 and "features" in cells:
                columns = tuple(ALIASES.get(cell.strip(), cell.strip()) for cell in cells)
                if len(set(columns)) < len(columns):
                    raise ValueError(f"{path}:1: a column comes twice in the header {cells}")
                continue
            columns = columns or COLUMNS.get(len(cells))
            if columns is None or len(cells) != len(columns):
                raise ValueError(
                    f"{path}:{line}: {len(cells)} columns; expected 6 or 10 as in "
                    "bottom-up-attention files, 2 or 3 as in VinVL's, or a first line with the "
                    "columns' names"
                )
            empty = False
            yield _record(dict(zip(columns, cells, strict=True)), f"{path}:{line}")
    if empty:
        raise ValueError(f"{path} holds no image")


def _record(cells: dict[str, str], where: str) -> Record:
    try:
        if "json" in cells:
            cells |= {key: str(value) for key, value in json.loads(cells["json"]).items()}
        if "json" in cells and "features" not in cells:
            raise ValueError("detections without features; give the file with the features")
        count = int(cells["num_boxes"])
        if count < 1:
            raise ValueError(f"{count} boxes")
        features = _floats(cells["features"]).reshape(count, -1)
        if not np.abs(features).max(initial=0) < LARGEST:
            raise ValueError("features of huge values or NaN, perhaps not float32 but float64")
        size, boxes = None, None
        if ("image_w" in cells) != ("image_h" in cells):
            raise ValueError("only one side of the image's size")
        if "image_w" in cells:
            size = float(cells["image_w"]), float(cells["image_h"])
        if "boxes" in cells:
            boxes = _floats(cells["boxes"]).reshape(count, 4)
        elif features.shape[1] == VINVL:
            features, boxes = _divide(features)
        return Record(cells["image_id"], features, boxes, size)
    except (KeyError, ValueError, AttributeError, binascii.Error) as error:
        raise ValueError(f"{where}: not a line of region features ({error})") from error


def _divide(both: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide VinVL's columns into features (n, 2048) and boxes (n, 4), fractions.

    Raises:
        ValueError: the last six columns are not a box with its width and height.
    """
    features, boxes, sides = both[:, :2048], both[:, 2048:2052], both[:, 2052:]
    expected = boxes[:, 2:] - boxes[:, :2]
    if not any(np.allclose(sides, e, atol=0.01) for e in (expected, expected[:, ::-1])):
        raise ValueError(
            f"the last 6 of {VINVL} columns are not x1, y1, x2, y2, width, height as VinVL has them"
        )
    return features, boxes


def _floats(cell: str) -> np.ndarray:
    """Decode float32.

    Raises:
        ValueError: the bytes are of another type, see `_other_type`.
    """
    data = base64.b64decode(cell, validate=True)
    if other := _other_type(data):
        raise ValueError(f"numbers that are {other}; write them as float32")
    return np.frombuffer(data, np.float32)


def _other_type(data: bytes) -> str:
    """Name the type of numbers that would read as float32, though they are none; "" if none fits.

    Read as float16, all are small and finite, and the lower halves of the float32 numbers are not
    those of rounded ones. Numbers that were rounded, as features of float16 are, show by their zero
    bytes: as float64 every second float32 is zero, and in the other byte order all are tiny.
    Others become huge values, which `_record` refuses.
    """
    halves = np.frombuffer(data, np.float16) if not len(data) % 2 else np.empty(0, np.float16)
    lower = halves[: len(halves) // 2 * 2 : 2].view(np.uint16)
    fine = np.count_nonzero(lower & ROUNDED) >= ENOUGH
    if fine and (np.abs(halves) < LARGEST_HALF).all():  # False for NaN
        return "float16"
    if len(data) % 4:
        return ""  # `np.frombuffer` refuses it
    words = np.frombuffer(data, "<u4")
    if len(words) % 2 == 0 and not words[::2].any() and np.count_nonzero(words[1::2]) >= SOME:
        return "float64"
    if 0 < np.abs(np.frombuffer(data, "<f4")).max(initial=0) < SMALLEST:  # False for NaN
        return "in the other byte order (big-endian)"
    return ""
