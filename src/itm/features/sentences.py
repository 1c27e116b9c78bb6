"""Read the captions of pictures from text, tables and JSON files."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itm.data.names import check_twins
from itm.features.cells import PICTURE, check_sentences
from itm.features.tables import Row, has_header, read_objects, read_table
from itm.utils.checks import check_text
from itm.utils.contents import parse_json, read_text
from itm.utils.readers import reader

NUMBER = re.compile(r"#\d+$")  # Flickr: name.jpg#0
KNOWN = re.compile(r"train|dev|test(all|[ab])?")
SPLITS = {
    "restval": "train", "training": "train", "val": "dev", "valid": "dev", "validation": "dev",
    "development": "dev", "testing": "test",
}  # names of other formats -> the layout's  # fmt: skip
JSON = (
    "Karpathy's {'images': [{'filename', 'sentences': [{'raw'}]}]}, COCO's {'images', "
    "'annotations'}, or a list of {'file_name', 'caption'}"
)


@dataclass
class Sentences:
    """The contents of a caption file.

    Attributes:
        captions: picture name -> its captions, in the order of the file.
        splits: picture name -> split, if the format records it.
        empty: number of empty captions, which are left out.
        bare: pictures that the file lists without any caption.
    """

    captions: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    empty: int = 0
    bare: list[str] = field(default_factory=list)

    def add(self, name: str, caption: str, split: str = "") -> None:
        """Add a caption; line breaks and runs of blanks become one blank.

        Raises:
            ValueError: the name is empty or has a line break, a text is not valid, or the picture
                is in two splits.
        """
        name, caption = name.strip(), " ".join(caption.split())
        split = (split or "").strip().lower()
        split = SPLITS.get(split, split)
        if split and not KNOWN.fullmatch(split):
            raise ValueError(
                f"{name} is in the split {split!r}; expected train, {', '.join(SPLITS)}, dev, test "
                "or testall"
            )
        if not name:
            raise ValueError(f"the caption {caption[:60]!r} has no picture")
        check_text(name, "the name of a picture")
        check_text(caption, f"a caption of {name}")
        if "\n" in name:
            raise ValueError(f"the name {name!r} of a picture holds a line break; rename it")
        if split and self.splits.setdefault(name, split) != split:
            raise ValueError(f"{name} is in the splits {self.splits[name]} and {split}")
        if caption:
            self.captions.setdefault(name, []).append(caption)
        else:
            self.empty += 1

    def report(self) -> None:
        """Print what is left out."""
        if self.empty:
            print(f"left out: {self.empty} empty captions")
        if self.bare:
            print(
                f"left out: {len(self.bare)} pictures without captions, such as "
                f"{', '.join(self.bare[:3])}"
            )


@reader("could not be read as captions")
def read_sentences(path: str | Path) -> Sentences:
    r"""Read captions from a file.

    - text: `name<TAB>caption` or Flickr's `name.jpg#0<TAB>caption`, one per line;
    - a table (`.csv`, or any text with a header): see `itm.features.tables` for the delimiters and
      the names of columns; `.csv` without header: `name.jpg,caption`;
    - `.jsonl`: one object per line, with keys named like the columns of tables;
    - `.json`: Karpathy's `{"images": [{"filename", "split", "sentences": [{"raw"}]}]}`, COCO's
      `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`, or a list of
      objects as in `.jsonl`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file has another format, is not UTF-8 or holds no caption; the message names
            the line.
    """
    path = Path(path).expanduser()
    text = read_text(path)
    ending = path.suffix.lower()
    if ending == ".json":
        found = _json(path, text)
    elif ending in (".jsonl", ".ndjson"):
        found = _collect(path, read_objects(_json_lines(text)))
    elif ending == ".csv" or has_header(text):
        found = _collect(path, read_table(text))
    else:
        found = _lines(path, text)
    if not found.captions:
        raise ValueError(f"{path} holds no caption")
    try:
        check_twins(found.captions)
        check_sentences(text for own in found.captions.values() for text in own)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return found


def _collect(path: Path, rows: Iterable[Row]) -> Sentences:
    """Collect the captions of rows; errors name the path and the line."""
    found, seen = Sentences(), set[str]()
    try:
        for row in rows:
            _check_new(row.name, seen, str(row.line))
            if not row.captions:
                found.bare.append(row.name)
            for caption in row.captions:
                try:
                    found.add(NUMBER.sub("", row.name), caption, row.split)
                except ValueError as error:
                    raise ValueError(f"{row.line}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}:{error}") from error
    return found


def _lines(path: Path, text: str) -> Sentences:
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    found, seen = Sentences(), set[str]()
    for number, line in lines:
        cells = line.split("\t")
        while len(cells) > 2 and not cells[-1].strip():
            cells.pop()
        if len(cells) != 2:
            raise ValueError(
                f"{path}:{number}: {len(cells) - 1 or 'no'} TAB between picture and caption, "
                f"{line[:60]!r}; expected name.jpg<TAB>caption, or a table with a header such as "
                "image,caption"
            )
        name, caption = cells[0].strip(), cells[1].strip()
        if " " in name and " " not in caption and PICTURE.fullmatch(caption):
            raise ValueError(
                f"{path}:{number}: {line[:60]!r} has the picture behind the caption; swap the "
                "columns, or name them in a header such as caption<TAB>image"
            )
        _check_new(name, seen, f"{path}:{number}")
        found.add(NUMBER.sub("", name), caption)
    if _has_unknown_header([line for _, line in lines]):
        raise ValueError(
            f"{path}:{lines[0][0]}: the header {lines[0][1][:60]!r} is not understood; name the "
            "columns image and caption, or leave the header out"
        )
    return found


def _check_new(name: str, seen: set[str], where: str) -> None:
    """Check that `name.jpg#0` comes once."""
    if NUMBER.search(name) and name in seen:
        raise ValueError(f"{where}: {name} comes twice; number the captions of a picture from 0")
    seen.add(name)


def _has_unknown_header(lines: list[str]) -> bool:
    """Tell whether the first line seems to be a header: another kind of name, or a lone word."""
    if len(lines) < 2:
        return False
    (name, caption), (second, _) = (_divided(line) for line in lines[:2])
    if PICTURE.fullmatch(name) or NUMBER.search(name):
        return False
    if PICTURE.fullmatch(second) or (re.search(r"\d", second) and not re.search(r"\d", name)):
        return True
    sentences = sum(" " in _divided(line)[1] for line in lines[1:21])
    return " " not in caption and not name.isdecimal() and 2 * sentences > len(lines[1:21])


def _divided(line: str) -> tuple[str, str]:
    name, _, caption = line.partition("\t")
    return name.strip(), caption.strip()


def _json_lines(text: str) -> Iterable[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, parse_json(line)
            except ValueError as error:
                raise ValueError(f"{number}: not a JSON object ({error})") from error


def _json(path: Path, text: str) -> Sentences:
    try:
        content = parse_json(text)
        if isinstance(content, list):
            return _collect(path, read_objects(enumerate(content, 1)))
        return _coco(content) if "annotations" in content else _karpathy(content)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); expected {JSON}") from error
    except ValueError as error:
        named = str(error).startswith(str(path))
        raise error if named else ValueError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected {JSON} (found {error!r})") from error


def _karpathy(content: Any) -> Sentences:
    found = Sentences()
    folders: dict[str, Any] = {}
    for image in content["images"]:
        if image["filename"] in folders:
            raise ValueError(
                f"two images are called {image['filename']!r} (filepath "
                f"{folders[image['filename']]!r} and {image.get('filepath')!r}), so that their "
                "captions would be mixed; write the folder into their filename"
            )
        folders[image["filename"]] = image.get("filepath")
        if not image["sentences"]:
            found.bare.append(image["filename"])
        for sentence in image["sentences"]:
            if not isinstance(sentence, dict) or not isinstance(sentence.get("raw"), str):
                raise ValueError(
                    f"{image['filename']}: expected sentences [{{'raw': 'a caption'}}], found "
                    f"{str(sentence)[:80]!r}"
                )
            found.add(image["filename"], sentence["raw"], image.get("split", ""))
    return found


def _coco(content: Any) -> Sentences:
    found = Sentences()
    names: dict[Any, str] = {}
    for image in content["images"]:
        if names.setdefault(image["id"], image["file_name"]) != image["file_name"]:
            raise ValueError(f"two images have the id {image['id']}")
    files = Counter(names.values())
    if twice := [name for name, n in files.items() if n > 1]:
        raise ValueError(
            f"two ids have the file_name {twice[0]!r}, so that their captions would be mixed; "
            "write the folder into file_name, or keep one of them"
        )
    ids = Counter(annotation.get("id") for annotation in content["annotations"])
    if twice := [number for number, n in ids.items() if n > 1 and number is not None]:
        raise ValueError(f"two annotations have the id {twice[0]}")
    for annotation in content["annotations"]:
        if annotation["image_id"] not in names:
            raise ValueError(f"a caption names image {annotation['image_id']}, which is not listed")
        found.add(names[annotation["image_id"]], annotation["caption"])
    found.bare = [name for name in names.values() if name not in found.captions]
    return found
