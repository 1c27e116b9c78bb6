"""Read the captions of pictures from text, CSV and JSON files."""

import csv
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

NUMBER = re.compile(r"#\d+$")  # Flickr: name.jpg#0
SPLITS = {"restval": "train", "val": "dev"}  # Karpathy's names -> the layout's


@dataclass
class Sentences:
    """The contents of a caption file.

    Attributes:
        captions: picture name -> its captions, in the order of the file.
        splits: picture name -> split, for formats that know it.
        empty: how many captions were empty and left out.
    """

    captions: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    empty: int = 0

    def add(self, name: str, caption: str) -> None:
        """Add a caption; line breaks and runs of blanks become one blank."""
        caption = " ".join(caption.split())
        if caption:
            self.captions.setdefault(name.strip(), []).append(caption)
        else:
            self.empty += 1


def read_sentences(path: str | Path) -> Sentences:
    r"""Read captions from a file.

    - text: `name<TAB>caption` or, as Flickr has it, `name.jpg#0<TAB>caption`, one a line;
    - `.csv`: columns `image` and `caption`, or the first two;
    - `.json`: Karpathy's `{"images": [{"filename", "split", "sentences": [{"raw"}]}]}`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format, not UTF-8, or no caption at all; the message names the line.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}:{line}: not UTF-8; convert the file, for example with "
            f"iconv -f latin1 -t utf-8 {path.name}"
        ) from error
    kinds = {".json": _karpathy, ".csv": _table}
    found = kinds.get(path.suffix.lower(), _lines)(path, text)
    if not found.captions:
        raise ValueError(f"{path} holds no caption")
    return found


def _lines(path: Path, text: str) -> Sentences:
    found = Sentences()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        if not tab:
            raise ValueError(
                f"{path}:{number}: no TAB between picture and caption, {line[:60]!r}; expected "
                "name.jpg<TAB>caption, or a .csv file with the columns image,caption"
            )
        found.add(NUMBER.sub("", name.strip()), caption)
    return found


def _table(path: Path, text: str) -> Sentences:
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if any(row)]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    named = "image" in header and "caption" in header
    at = (header.index("image"), header.index("caption")) if named else (0, 1)
    found = Sentences()
    for number, row in enumerate(rows[named:], 1 + named):
        if len(row) <= max(at):
            raise ValueError(f"{path}, row {number}: {row} has no column {max(at) + 1}")
        found.add(NUMBER.sub("", row[at[0]].strip()), row[at[1]])
    return found


def _karpathy(path: Path, text: str) -> Sentences:
    found = Sentences()
    try:
        for image in json.loads(text)["images"]:
            for sentence in image["sentences"]:
                found.add(image["filename"], sentence["raw"])
            if "split" in image:
                found.splits[image["filename"]] = SPLITS.get(image["split"], image["split"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected {{'images': [{{'filename', 'sentences': [{{'raw'}}]}}]}} "
            f"(found {error!r})"
        ) from error
    return found
