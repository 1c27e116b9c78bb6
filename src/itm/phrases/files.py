"""Read phrases with their boxes: Flickr30K Entities, REFER (ReferIt, RefCOCO), or JSON lines.

* `Sentences/ID.txt` and `Annotations/ID.xml` of Flickr30K Entities (Plummer et al., IJCV 2017);
* `instances.json` and `refs(NAME).p` of the REFER toolkit: ReferIt, RefCOCO, RefCOCO+, RefCOCOg;
* `{split}_phrases.jsonl`: one JSON object per line with "image" (row), "phrase", "boxes" (one or
  several, in the units of the region boxes) and, if known, "type", "caption" (row in the caption
  file) and "span" ([start, stop] in the words of the caption split at blanks).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from itm.data.boxes import Box, around, check_boxes, edges
from itm.data.layout import Split
from itm.data.names import stem
from itm.phrases.lines import check_phrase, read_lines
from itm.phrases.refer import read_refer
from itm.phrases.split import Phrase
from itm.phrases.units import ids_of, in_units, read_annotation
from itm.utils.log_files import say
from itm.utils.readers import reader


@reader("could not be read as phrases")
def read_phrases(
    path: str | Path | None, split: Split, refer_split: str | None = None
) -> list[Phrase]:
    """Read the phrases of a split's images.

    Args:
        path: folder of Flickr30K Entities or of REFER, or a file of phrases; None = the file
            `{split}_phrases.jsonl` in the folder of the split.
        split: split whose ids name the files and whose region boxes set the units.
        refer_split: the split of REFER whose expressions are read, such as "testA"; None = as the
            name of `split` says, where test means test, testA and testB. Expressions of other
            splits are counted and left out.

    Raises:
        FileNotFoundError: the path holds none of these formats.
        ValueError: a file is damaged or a value is wrong; the message names file and line.
    """
    path = split.folder / f"{split.name}_phrases.jsonl" if path is None else Path(path).expanduser()
    refer = (path / "instances.json").is_file() or path.suffix == ".p"
    if refer_split is not None and not refer:
        raise ValueError(f"refer_split={refer_split} chooses a split of REFER, but {path} is not")
    if (path / "Sentences").is_dir() and (path / "Annotations").is_dir():
        return list(_entities(path, split))
    if refer:
        return list(read_refer(path, split, refer_split))
    if path.is_file():
        return list(read_lines(path, split))
    raise FileNotFoundError(
        f"{path}: no phrases there; expected a folder with Sentences/ and Annotations/ (Flickr30K "
        "Entities), one with instances.json and refs(NAME).p (ReferIt, RefCOCO), or a file "
        f"{split.name}_phrases.jsonl"
    )


def _entities(folder: Path, split: Split) -> Iterator[Phrase]:
    """Read phrases that have a box; phrases of one reference chain share the union of its boxes."""
    first: dict[str, str] = {}
    bare, kept = list[str](), 0
    for image, own in enumerate(ids_of(split)):
        name = stem(own)
        if first.setdefault(name, own) != own:
            raise ValueError(
                f"{first[name]!r} and {own!r} of split {split.name} both mean {name}.txt of "
                f"{folder / 'Sentences'}"
            )
        sentences = folder / "Sentences" / f"{name}.txt"
        annotations = folder / "Annotations" / f"{name}.xml"
        size, boxes = entity_boxes(annotations)
        for number, line in enumerate(read_annotation(sentences).split("\n"), 1):
            where = f"{sentences}:{number}"
            try:
                words, found = entity_phrases(line)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            for chain, types, start, stop in found:
                if chain not in boxes:
                    bare.append(" ".join(words[start:stop]))
                    continue
                text = check_phrase(where, " ".join(words[start:stop]))
                x1, y1, x2, y2 = edges(np.array(around(boxes[chain])))  # of inclusive pixels
                box, kept = in_units((x1, y1, x2, y2), size, split), kept + 1
                yield Phrase(image, text, box, types, words, (start, stop))
    if bare:
        say(
            f"left out: {len(bare)} of {len(bare) + kept} phrases of split {split.name} without a "
            f"box, such as {', '.join(map(repr, bare[:3]))}"
        )


def entity_phrases(line: str) -> tuple[tuple[str, ...], list[tuple[str, str, int, int]]]:
    """Parse a line of Sentences/ID.txt: its words, its phrases as (chain, types, start, stop).

    Examples:
        >>> entity_phrases("[/EN#1/people A man] runs .")
        (('A', 'man', 'runs', '.'), [('1', 'people', 0, 2)])

    Raises:
        ValueError: a bracket is not closed, or a phrase begins inside another one.
    """
    words: list[str] = []
    found = []
    chain, types, start = "", "", -1
    for token in line.split():
        if token.startswith("[/EN#"):
            if start >= 0:
                raise ValueError(f"a phrase of {line!r} begins inside another one")
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
        root = ElementTree.fromstring(read_annotation(path))
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
