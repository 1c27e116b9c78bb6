"""Phrases and the boxes of what they refer to: Flickr30K Entities, ReferIt, or a plain file.

A split of images with region boxes (`{split}_ims.npy`, `{split}_boxes.npy`) and the phrases of its
images make a `PhraseSplit`. What is read:

* `Sentences/ID.txt` and `Annotations/ID.xml` of Flickr30K Entities (Plummer et al., IJCV 2017);
* `instances.json` and `refs(NAME).p` of the REFER toolkit: ReferIt, RefCOCO, RefCOCO+, RefCOCOg;
* `{split}_phrases.jsonl`: one JSON object a line with "image" (row), "phrase", "boxes" (one or
  several, in the units of the region boxes) and, if known, "type", "caption" (row) and "span"
  ([start, stop] in the words of the caption split at blanks).
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from itm.boxes import Box, around, edges, in_pixels, overlaps
from itm.layout import Split
from itm.word_files import read_arrays


class Phrase(NamedTuple):
    """Some words about an image, and where in it they are true.

    Attributes:
        image: row of the image in its split.
        text: the words.
        box: box up to its edges, in the units of the split's region boxes; the union of several.
        type: such as "people"; several are joined by "/"; empty where nothing is known.
        caption: the sentence around the phrase, split at blanks; empty where there is none.
        span: the phrase is words[start:stop] of the caption.
    """

    image: int
    text: str
    box: Box
    type: str = ""
    caption: tuple[str, ...] = ()
    span: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class PhraseSplit(Split):
    """A split whose captions are phrases, each with a box.

    Attributes:
        phrases: M phrases; `captions` are their words.
        positive_iou: overlap from which a region is what a phrase means.
        negative_iou: overlap below which a region is something else; what lies between is ignored
            in training.
    """

    phrases: tuple[Phrase, ...] = ()
    positive_iou: float = 0.5
    negative_iou: float = 0.5

    def region_boxes(self, images: np.ndarray) -> np.ndarray:
        """(n, R, 4) boxes of the regions of some images, up to their edges."""
        assert self.boxes is not None
        boxes = np.asarray(self.boxes[self.row[images]], np.float64)
        return edges(boxes) if in_pixels(self.boxes) else boxes

    def overlaps(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """(n, R) overlap of the boxes of some phrases with the regions of their images."""
        truth = np.array([self.phrases[row].box for row in rows]).reshape(-1, 4)
        return overlaps(self.region_boxes(self.caption_image[rows]), truth)

    def target(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """(n, R) float32: 1 where a region is what a phrase means, -1 where not, 0 = ignored."""
        found = self.overlaps(rows)
        wrong = np.where(found < self.negative_iou, -1.0, 0.0)
        return np.where(found >= self.positive_iou, 1.0, wrong).astype(np.float32)


@dataclass(frozen=True)
class PhraseSource:
    """Where phrases come from, and which regions count as theirs in training.

    Args:
        path: folder or file, see `read_phrases`; None = the file of phrases beside the features.
        positive_iou: see `PhraseSplit` (CITE: 0.6; 0.5 is what counts as found).
        negative_iou: see `PhraseSplit` (CITE: 0.3).
    """

    path: str | Path | None = None
    positive_iou: float = 0.6
    negative_iou: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(
                f"negative_iou={self.negative_iou}, positive_iou={self.positive_iou}: expected "
                "0 < negative_iou <= positive_iou <= 1"
            )

    def split(self, split: Split, train: bool = False) -> PhraseSplit:
        """The phrases of a split; in training those that a region matches, which others teach not.

        Raises:
            ValueError: no phrase of any image, or in training none that a region matches.
        """
        phrases = read_phrases(self.path, split)
        whole = phrase_split(split, phrases, self.positive_iou, self.negative_iou)
        if not train:
            return whole
        best = whole.overlaps(range(len(phrases))).max(1, initial=0)
        kept = [p for p, found in zip(phrases, best, strict=True) if found >= self.positive_iou]
        if not kept:
            raise ValueError(
                f"no region of {split.folder} {split.name} overlaps its phrase's box by "
                f"{self.positive_iou}; do boxes and phrases belong to the same images?"
            )
        return phrase_split(split, kept, self.positive_iou, self.negative_iou)


def phrase_split(
    split: Split, phrases: Sequence[Phrase], positive_iou: float = 0.5, negative_iou: float = 0.5
) -> PhraseSplit:
    """A split with phrases for captions, in the order of its images.

    Raises:
        ValueError: no phrases, or no boxes of regions.
    """
    if split.boxes is None:
        raise ValueError(
            f"{split.folder} has no {split.name}_boxes.npy, the (images, regions, 4) boxes of its "
            "regions; the features published with SCAN come without, extract features with boxes"
        )
    if not phrases:
        raise ValueError(f"no phrase belongs to an image of {split.folder} {split.name}")
    phrases = sorted(phrases, key=lambda phrase: phrase.image)
    own = {field.name: getattr(split, field.name) for field in fields(Split)}
    own |= {
        "captions": [phrase.text for phrase in phrases],
        "caption_image": np.array([phrase.image for phrase in phrases]),
        "protocol": "full",
    }
    return PhraseSplit(
        **own, phrases=tuple(phrases), positive_iou=positive_iou, negative_iou=negative_iou
    )


# Readers ------------------------------------------------------------------------------------------


def read_phrases(path: str | Path | None, split: Split) -> list[Phrase]:
    """The phrases of a split's images.

    Args:
        path: folder of Flickr30K Entities or of REFER, or a phrases file; None = the file
            `{split}_phrases.jsonl` in the split's own folder.
        split: its images' ids name the files; its boxes tell the units.

    Raises:
        FileNotFoundError: nothing of the kind there.
        ValueError: a broken file; the message names it.
    """
    path = split.folder / f"{split.name}_phrases.jsonl" if path is None else Path(path).expanduser()
    if (path / "Sentences").is_dir() and (path / "Annotations").is_dir():
        return list(_entities(path, split))
    if (path / "instances.json").is_file() or path.suffix == ".p":
        return list(_refer(path, split))
    if path.is_file():
        return list(_lines(path, split))
    raise FileNotFoundError(
        f"{path}: no phrases there; expected a folder with Sentences/ and Annotations/ (Flickr30K "
        "Entities), one with instances.json and refs(NAME).p (ReferIt, RefCOCO), or a file "
        f"{split.name}_phrases.jsonl"
    )


def _lines(path: Path, split: Split) -> Iterator[Phrase]:
    pixels = split.boxes is not None and in_pixels(split.boxes)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            image, caption = int(entry["image"]), entry.get("caption")
            box = around(entry["boxes"])
            kind, span = entry.get("type", ""), tuple(entry.get("span", (0, 0)))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}:{number}: expected a JSON object with image, phrase and boxes ({error!r})"
            ) from error
        if image < split.num_images:  # a split may be cut to its first images
            words = () if caption is None else tuple(split.captions[caption].split())
            box = _box(edges(np.array(box))) if pixels else box
            yield Phrase(image, entry["phrase"], box, kind, words, span)


def _entities(folder: Path, split: Split) -> Iterator[Phrase]:
    """Phrases with a box; those of one chain of references share the union of its boxes."""
    for image, name in enumerate(_names(split)):
        sentences = folder / "Sentences" / f"{name}.txt"
        annotations = folder / "Annotations" / f"{name}.xml"
        size, boxes = entity_boxes(annotations)
        for line in _text(sentences).splitlines():
            words, found = entity_phrases(line)
            for chain, types, start, stop in found:
                if chain in boxes:
                    box = _in_units(around(boxes[chain]), size, split)
                    yield Phrase(
                        image, " ".join(words[start:stop]), box, types, words, (start, stop)
                    )


def entity_phrases(line: str) -> tuple[tuple[str, ...], list[tuple[str, str, int, int]]]:
    """Words of one line of Sentences/ID.txt, and its phrases as (chain, types, start, stop).

    >>> entity_phrases("[/EN#1/people A man] runs .")
    (('A', 'man', 'runs', '.'), [('1', 'people', 0, 2)])

    Raises:
        ValueError: a bracket that is not closed.
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
    """Width and height of an image, and the boxes of its chains, from Annotations/ID.xml.

    Columns and rows count from 1 in the file, from 0 here; the last ones belong to the box.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file.
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
            for name in thing.iter("name"):
                boxes[name.text or ""].append((x1, y1, x2, y2))
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path} is no annotation of Flickr30K Entities: {error}") from error
    return (width, height), dict(boxes)


def _refer(path: Path, split: Split) -> Iterator[Phrase]:
    """Every expression about every object that is referred to."""
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("refs*.p")) if path.is_dir() else [path]
    if len(files) != 1:
        raise ValueError(
            f"{folder} has {len(files)} files refs(NAME).p: give the path of one of them, such as "
            f"{files[0] if files else folder / 'refs(unc).p'}"
        )
    instances = json.loads(_text(folder / "instances.json"))
    try:
        boxes = {int(a["id"]): a["bbox"] for a in instances["annotations"]}
        pictures = {int(image["id"]): image for image in instances["images"]}
        rows = {name: row for row, name in enumerate(_names(split))}
        for ref in read_arrays(files[0]):
            picture = pictures[int(ref["image_id"])]
            names = (Path(picture["file_name"]).stem, str(ref["image_id"]))
            image = next((rows[name] for name in names if name in rows), None)
            if image is None:
                continue
            x, y, w, h = boxes[int(ref["ann_id"])]
            size = (int(picture["width"]), int(picture["height"]))
            box = _in_units((x, y, x + w, y + h), size, split)
            for sentence in ref["sentences"]:
                yield Phrase(image, str(sentence["sent"]), box)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{files[0]} and instances.json do not fit together: {error!r}") from error


def _names(split: Split) -> list[str]:
    """The images' ids without the endings of picture files."""
    if split.ids is None:
        raise ValueError(
            f"{split.folder} has no {split.name}_ids.txt, so that nothing says which image a "
            "phrase belongs to"
        )
    return [name.removesuffix(".jpg").removesuffix(".png") for name in split.ids]


def _in_units(box: Box, size: tuple[int, int], split: Split) -> Box:
    """An inclusive pixel box up to its edges, as fractions where the regions' boxes are."""
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
    return path.read_text(encoding="utf-8")
