"""Read the captions of pictures from text, tables and JSON files."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itm.features.tables import PICTURE, Row, has_header, read_objects, read_table
from itm.utils.contents import parse_json, read_text
from itm.utils.readers import reader

NUMBER = re.compile(r"#\d+$")  # Flickr: name.jpg#0
KNOWN = re.compile(r"(train|dev|val|test)\w*")
SPLITS = {
    "restval": "train",
    "val": "dev",
    "validation": "dev",
}  # names of other formats -> the layout's
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
    """

    captions: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    empty: int = 0

    def add(self, name: str, caption: str, split: str = "") -> None:
        """Add a caption; line breaks and runs of blanks become one blank.

        Raises:
            ValueError: the name is empty, or the picture is in two splits.
        """
        name, caption = name.strip(), " ".join(caption.split())
        split = (split or "").strip().lower()
        split = SPLITS.get(split, split)
        if split and not KNOWN.fullmatch(split):
            raise ValueError(
                f"{name} is in the split {split!r}; expected train, restval, val, validation, dev "
                "or test"
            )
        if not name:
            raise ValueError(f"the caption {caption[:60]!r} has no picture")
        if split and self.splits.setdefault(name, split) != split:
            raise ValueError(f"{name} is in the splits {self.splits[name]} and {split}")
        if caption:
            self.captions.setdefault(name, []).append(caption)
        else:
            self.empty += 1


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
    return found


def _collect(path: Path, rows: Iterable[Row]) -> Sentences:
    """Collect the captions of rows; errors name the path and the line."""
    found, seen = Sentences(), set[str]()
    try:
        for row in rows:
            _check_new(row.name, seen, str(row.line))
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
    if len(lines) > 1 and not _like_a_name(lines[0][1]) and _like_a_name(lines[1][1]):
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


def _like_a_name(line: str) -> bool:
    name = line.partition("\t")[0].strip()
    return bool(PICTURE.fullmatch(name) or re.search(r"\d", name))


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
        for sentence in image["sentences"]:
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
    for annotation in content["annotations"]:
        if annotation["image_id"] not in names:
            raise ValueError(f"a caption names image {annotation['image_id']}, which is not listed")
        found.add(names[annotation["image_id"]], annotation["caption"])
    return found
