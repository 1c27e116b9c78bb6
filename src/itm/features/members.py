"""Make the record of an image from arrays that go by the names of public extractors."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import numpy as np

from itm.features.records import Record

FEATURES = ("features", "image_features", "feature", "feat", "x", "arr_0")
BOXES = ("boxes", "image_bb", "bbox", "box")
COUNTS = ("num_boxes", "num_bbox")  # regions of an image; rows behind them are padding
WIDTHS = ("image_w", "image_width", "img_w", "width")
HEIGHTS = ("image_h", "image_height", "img_h", "height")
KNOWN = (*FEATURES, *BOXES, *COUNTS, *WIDTHS, *HEIGHTS)


def first(names: Container[str], wanted: tuple[str, ...], where: str) -> str | None:
    """Find the only one of the wanted names that a file has, or None.

    Args:
        names: of the file; two arrays of a mapping may be equal.
        wanted: names that mean the same.
        where: beginning of the message.

    Raises:
        ValueError: it has two of them.
    """
    found = [name for name in wanted if name in names]
    if len(found) > 1 and isinstance(names, dict):
        found = [n for n in found if n == found[0] or not np.array_equal(names[n], names[found[0]])]
    if len(found) > 1:
        raise ValueError(f"{where}: it holds both {found[0]} and {found[1]}; keep one of them")
    return found[0] if found else None


def some(names: Iterable[str]) -> str:
    """Join the first names for a message."""
    every = list(names)
    return ", ".join(every[:5]) + (f" and {len(every) - 5} others" if len(every) > 5 else "")


def make_record(image: str, arrays: dict[str, Any], where: str) -> Record:
    """Make a record from the arrays of one image, named as in `KNOWN`; padding is left out.

    Raises:
        ValueError: no features, two arrays of one meaning, only one side of the image's size, or a
            number of regions that the features do not have; the message begins with `where`.
    """
    name, boxes = first(arrays, FEATURES, where), first(arrays, BOXES, where)
    if name is None:
        raise ValueError(
            f"{where}: expected one of {', '.join(FEATURES)}, found {some(arrays) or 'nothing'}"
        )
    rows, places = arrays[name], None if boxes is None else arrays[boxes]
    for kind in (name, boxes):
        if kind is not None and not np.shape(arrays[kind]):
            raise ValueError(f"{where}: {kind} is one number, expected a row for each region")
    sides = [_number(arrays, names, where) for names in (WIDTHS, HEIGHTS)]
    if (sides[0] is None) != (sides[1] is None):
        raise ValueError(
            f"{where}: expected one number each in {WIDTHS[0]} and {HEIGHTS[0]}, found one of them"
        )
    count = _number(arrays, COUNTS, where)
    if count is not None:
        if not (count.is_integer() and 1 <= count <= len(rows)):
            raise ValueError(
                f"{where}: {first(arrays, COUNTS, where)}={count:g} with {name} {np.shape(rows)}; "
                "expected the number of its rows that are regions"
            )
        kept = int(count)
        if places is not None and len(places) not in (kept, len(rows)):
            raise ValueError(f"{where}: {name} {np.shape(rows)} and {boxes} {np.shape(places)}")
        rows, places = rows[:kept], None if places is None else places[:kept]
    width, height = sides
    return Record(image, rows, places, None if width is None or height is None else (width, height))


def _number(arrays: dict[str, Any], names: tuple[str, ...], where: str) -> float | None:
    name = first(arrays, names, where)
    if name is None:
        return None
    value = np.asarray(arrays[name])
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise ValueError(
            f"{where}: expected one number in {name}, found {value.dtype} {value.shape}"
        )
    return float(value.reshape(-1)[0])
