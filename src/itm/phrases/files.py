"""Read phrases with their boxes: Flickr30K Entities, REFER (ReferIt, RefCOCO), or JSON lines.

* `Sentences/ID.txt` and `Annotations/ID.xml` of Flickr30K Entities (Plummer et al., IJCV 2017);
* `instances.json` and `refs(NAME).p` of the REFER toolkit: ReferIt, RefCOCO, RefCOCO+, RefCOCOg;
* `{split}_phrases.jsonl`: one JSON object per line with "image" (row), "phrase", "boxes" (one or
  several, in the units of the region boxes) and, if known, "type", "caption" (row in the caption
  file) and "span" ([start, stop] in the words of the caption split at blanks).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from itm.data.boxes import Box, around, check_boxes, edges, in_pixels
from itm.data.layout import Split
from itm.data.names import Names, stem
from itm.phrases.lines import check_text, read_lines
from itm.phrases.split import Phrase
from itm.utils.readers import reader
from itm.utils.safe_pickle import read_arrays


@reader("could not be read as phrases")
def read_phrases(path: str | Path | None, split: Split) -> list[Phrase]:
    """Read the phrases of a split's images.

    Args:
        path: folder of Flickr30K Entities or of REFER, or a file of phrases; None = the file
            `{split}_phrases.jsonl` in the folder of the split.
        split: split whose ids name the files and whose region boxes set the units.

    Raises:
        FileNotFoundError: the path holds none of these formats.
        ValueError: a file is damaged or a value is wrong; the message names file and line.
    """
    path = split.folder / f"{split.name}_phrases.jsonl" if path is None else Path(path).expanduser()
    if (path / "Sentences").is_dir() and (path / "Annotations").is_dir():
        return list(_entities(path, split))
    if (path / "instances.json").is_file() or path.suffix == ".p":
        return list(_refer(path, split))
    if path.is_file():
        return list(read_lines(path, split))
    raise FileNotFoundError(
        f"{path}: no phrases there; expected a folder with Sentences/ and Annotations/ (Flickr30K "
        "Entities), one with instances.json and refs(NAME).p (ReferIt, RefCOCO), or a file "
        f"{split.name}_phrases.jsonl"
    )


def _entities(folder: Path, split: Split) -> Iterator[Phrase]:
    """Read phrases that have a box; phrases of one reference chain share the union of its boxes."""
    for image, name in enumerate(map(stem, _ids(split))):
        sentences = folder / "Sentences" / f"{name}.txt"
        annotations = folder / "Annotations" / f"{name}.xml"
        size, boxes = entity_boxes(annotations)
        for number, line in enumerate(_text(sentences).split("\n"), 1):
            where = f"{sentences}:{number}"
            try:
                words, found = entity_phrases(line)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            for chain, types, start, stop in found:
                if chain in boxes:
                    text = check_text(where, " ".join(words[start:stop]))
                    box = _in_units(around(boxes[chain]), size, split)
                    yield Phrase(image, text, box, types, words, (start, stop))


def entity_phrases(line: str) -> tuple[tuple[str, ...], list[tuple[str, str, int, int]]]:
    """Parse a line of Sentences/ID.txt: its words, its phrases as (chain, types, start, stop).

    >>> entity_phrases("[/EN#1/people A man] runs .")
    (('A', 'man', 'runs', '.'), [('1', 'people', 0, 2)])

    Raises:
        ValueError: a bracket is not closed.
    """
    words: list[str] = []
    found = []
    chain, types, start = "", "", -1
    for token in line.split():
        if token.startswith("[/EN#"):
            chain, _, types = token.removeprefix("[/EN#").partition("/")
            start = len(words)
            continue
        closed = start >= 0 and token.endswith("]")
        words.append(token[:-1] if closed else token)
        if closed:
            found.append((chain, types, start, len(words)))
            start = -1
    if start >= 0:
        raise ValueError(f"a phrase of {line!r} has no closing bracket")
    return tuple(words), found


def entity_boxes(path: Path) -> tuple[tuple[int, int], dict[str, list[Box]]]:
    """Read the size of an image and the boxes of its chains from Annotations/ID.xml.

    The file counts columns and rows from 1, the result from 0; both ends belong to the box.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an annotation of Flickr30K Entities.
    """
    boxes: dict[str, list[Box]] = defaultdict(list)
    try:
        root = ElementTree.fromstring(_text(path))
        width, height = (int(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
        for thing in root.iter("object"):
            corners = thing.find("bndbox")
            if corners is None:  # nobndbox or scene
                continue
            x1, y1, x2, y2 = (
                int(corners.findtext(key, "")) - 1 for key in ("xmin", "ymin", "xmax", "ymax")
            )
            check_boxes(np.array([x1, y1, x2 + 1, y2 + 1]), (width, height), "an object", True)
            if x2 < x1 or y2 < y1:
                raise ValueError(f"a box {(x1, y1, x2, y2)} that ends before it begins")
            for name in thing.iter("name"):
                boxes[name.text or ""].append((x1, y1, x2, y2))
        if min(width, height) < 1:
            raise ValueError(f"the size {width} x {height}")
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path} is not an annotation of Flickr30K Entities: {error}") from error
    return (width, height), dict(boxes)


def _refer(path: Path, split: Split) -> Iterator[Phrase]:
    """Read every expression about every object."""
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("refs*.p")) if path.is_dir() else [path]
    if len(files) != 1:
        raise ValueError(
            f"{folder} has {len(files)} files refs(NAME).p "
            f"({', '.join(file.name for file in files)}), expected one: give the path of one "
            f"instead of the folder, such as {files[-1] if files else folder / 'refs(unc).p'}"
        )
    try:
        instances = json.loads(_text(folder / "instances.json"))
        boxes = _by_id(instances["annotations"])
        pictures = _by_id(instances["images"])
        ids = _ids(split)
        names, rows = Names(ids), {name: row for row, name in enumerate(ids)}
        for number, ref in enumerate(read_arrays(files[0])):
            picture = pictures[int(ref["image_id"])]
            found = names.find(picture["file_name"]) or names.find(ref["image_id"])
            if found is None:
                continue
            where = f"{files[0]}: expression {number} of image {ref['image_id']}"
            x, y, w, h = (float(value) for value in boxes[int(ref["ann_id"])]["bbox"])
            size = (int(picture["width"]), int(picture["height"]))
            check_boxes(np.array([x, y, x + w, y + h]), size, where, True)
            if min(w, h) <= 0:
                raise ValueError(f"{where}: bbox {(x, y, w, h)} must have a width and a height")
            box = _in_units((x, y, x + w, y + h), size, split)
            for sentence in ref["sentences"]:
                yield Phrase(rows[found], check_text(where, sentence["sent"]), box)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{files[0]} and instances.json do not fit together: {error!r}") from error


def _by_id(entries: Any) -> dict[int, Any]:
    """Index entries of a COCO file by their ids.

    Raises:
        ValueError: an id occurs twice.
    """
    found: dict[int, Any] = {}
    for entry in entries:
        if int(entry["id"]) in found:
            raise ValueError(f"instances.json has the id {entry['id']} twice")
        found[int(entry["id"])] = entry
    return found


def _ids(split: Split) -> list[str]:
    """Return the images' ids.

    Raises:
        ValueError: the split has none.
    """
    if split.ids is None:
        raise ValueError(
            f"{split.folder} has no {split.name}_ids.txt; without ids, phrases cannot be "
            "assigned to images"
        )
    return split.ids


def _in_units(box: Box, size: tuple[int, int], split: Split) -> Box:
    """Convert an inclusive pixel box to its edges, and to fractions if the region boxes are."""
    found = edges(np.array(box))
    if split.boxes is not None and not in_pixels(split.boxes):
        found = (found / np.array([*size, *size])).clip(0, 1)
    return _box(found)


def _box(values: Any) -> Box:
    x1, y1, x2, y2 = (float(value) for value in values)
    return x1, y1, x2, y2


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; download it, or leave its image out")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error
