"""Read phrases from a file with one JSON object per line, and check every value."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from itm.data.boxes import LIMIT, Box, around, check_boxes, edges, in_pixels
from itm.data.layout import Split
from itm.phrases.split import Phrase
from itm.utils.contents import parse_json, read_text
from itm.utils.log_files import say

LARGEST = 10**9  # limit of a coordinate; NaN and infinite values are not below it
KEYS = {"image", "phrase", "boxes", "type", "caption", "span"}
BLANK = ("Zs", "Zl", "Zp", "Cc", "Cf")  # Unicode categories: blanks, control and format characters


def read_lines(path: Path, split: Split) -> Iterator[Phrase]:
    """Read `{split}_phrases.jsonl`, see `itm.phrases.files`.

    Raises:
        ValueError: a value is missing, of the wrong kind or out of range; the message names file
            and line.
    """
    text = read_text(path)
    pixels = split.boxes is not None and in_pixels(split.boxes)
    lost = 0
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        where = f"{path}:{number}"
        try:
            entry = parse_json(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not a JSON object ({error})") from error
        if not isinstance(entry, dict) or {"image", "phrase", "boxes"} - set(entry):
            raise ValueError(f"{where}: expected a JSON object with image, phrase and boxes")
        if unknown := set(entry) - KEYS:
            raise ValueError(
                f"{where}: unknown key {min(unknown)!r}; expected {', '.join(sorted(KEYS))}"
            )
        image = _whole(where, "image", entry["image"], len(split.features))
        if image < split.num_images:
            yield _phrase(where, entry, image, split, pixels)
        else:  # the split is cut to its first images, or the file counts rows of features
            lost += 1
    if lost:
        say(
            f"left out: {lost} phrases of {path.name} about images from {split.num_images} on; "
            f"split {split.name} has {split.num_images} images"
        )


def _phrase(where: str, entry: dict[str, Any], image: int, split: Split, pixels: bool) -> Phrase:
    text = check_phrase(where, entry["phrase"])
    kind = entry.get("type", "")
    if not isinstance(kind, str):
        raise ValueError(f"{where}: type={kind!r} must be a string, such as 'people'")
    words: tuple[str, ...] = ()
    if entry.get("caption") is not None:
        words = _words(where, entry["caption"], image, split)
    span = (0, 0)
    if entry.get("span") is not None:
        span = _span(where, entry["span"], words)
    return Phrase(image, text, _box(where, entry["boxes"], pixels), kind, words, span)


def check_phrase(where: str, text: Any) -> str:
    """Return the phrase if it has a visible character.

    Raises:
        ValueError: it has none, or is not a string.
    """
    if not isinstance(text, str) or all(unicodedata.category(c) in BLANK for c in text):
        raise ValueError(f"{where}: phrase={text!r} must be words")
    return text


def _whole(where: str, name: str, value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError(f"{where}: {name}={value!r} must be a row from 0 to {limit - 1}")
    return value


def _words(where: str, caption: Any, image: int, split: Split) -> tuple[str, ...]:
    """Return the words of the caption in a line of the split's file; it must be the image's."""
    rows = split.caption_row
    found = caption
    if rows is not None and type(caption) is int:
        kept = np.flatnonzero(rows == caption)
        if not len(kept):
            raise ValueError(
                f"{where}: caption={caption} is not among the captions of split {split.name}; a "
                f"protocol such as {split.protocol} keeps five per image"
            )
        found = int(kept[0])
    found = _whole(where, "caption", found, len(split.captions))
    if split.caption_image[found] != image:
        raise ValueError(
            f"{where}: caption={caption} describes image {split.caption_image[found]}, not {image}"
        )
    return tuple(split.captions[found].split())


def _span(where: str, span: Any, words: tuple[str, ...]) -> tuple[int, int]:
    valid = (
        isinstance(span, list)
        and len(span) == 2
        and all(type(end) is int for end in span)
        and 0 <= span[0] < span[1] <= len(words)
    )
    if not valid:
        raise ValueError(
            f"{where}: span={span!r} must be [start, stop] with 0 <= start < stop <= {len(words)}, "
            "the number of words of its caption"
        )
    return span[0], span[1]


def _box(where: str, boxes: Any, pixels: bool) -> Box:
    """Check boxes, and return the box around them in the units of the region boxes."""
    valid = (
        isinstance(boxes, list)
        and boxes
        and all(isinstance(box, list) and len(box) == 4 for box in boxes)
        and all(type(x) in (int, float) and abs(x) < LARGEST for box in boxes for x in box)
    )
    if not valid:
        raise ValueError(
            f"{where}: boxes={boxes!r} must be [[x1, y1, x2, y2], ...], finite numbers"
        )
    array = np.array(boxes, np.float64)
    check_boxes(array, None, where)
    if pixels != in_pixels(array) and (pixels or array.max() > LIMIT):
        units = ("pixels", "fractions") if pixels else ("fractions", "pixels")
        raise ValueError(
            f"{where}: boxes={boxes!r} are in {units[1]}, the region boxes in {units[0]}; expected "
            "the same units"
        )
    if (array[:, 2:] < array[:, :2]).any():
        raise ValueError(f"{where}: boxes={boxes!r} must be x1 <= x2 and y1 <= y2")
    x1, y1, x2, y2 = edges(np.array(around(boxes))) if pixels else around(boxes)
    return float(x1), float(y1), float(x2), float(y2)
