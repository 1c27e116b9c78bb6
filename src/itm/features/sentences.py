"""Read the captions of pictures from text, tables and JSON files."""

import csv
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from itm.data.names import check_twins
from itm.features.caption_json import FORMS, read_object
from itm.features.cells import PICTURE, check_sentences
from itm.features.collected import NUMBER, Sentences, strip_numbers
from itm.features.tables import Row, has_header, read_objects, read_table
from itm.utils.contents import parse_json, read_text
from itm.utils.readers import reader


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
    text = re.sub(r"\Asep=.\r?(?=\n)", "", read_text(path))  # Excel's line for the delimiter
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
        every = list(rows)
        names = strip_numbers([row.name for row in every])
        for name, row in zip(names, every, strict=True):
            _check_new(row.name, name, seen, str(row.line))
            if not row.captions:
                found.bare.append(row.name)
            for caption in row.captions:
                try:
                    found.add(name, caption, row.split)
                except ValueError as error:
                    raise ValueError(f"{row.line}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}:{error}") from error
    return found


def _lines(path: Path, text: str) -> Sentences:
    lines = [(n, line) for n, line in enumerate(_unquoted(text).split("\n"), 1) if line.strip()]
    found, seen = Sentences(), set[str]()
    pairs = [(number, *_pair(line, f"{path}:{number}")) for number, line in lines]
    names = strip_numbers([name for _, name, _ in pairs])
    for plain, (number, name, caption) in zip(names, pairs, strict=True):
        _check_new(name, plain, seen, f"{path}:{number}")
        found.add(plain, caption)
    if _has_unknown_header([line for _, line in lines]):
        raise ValueError(
            f"{path}:{lines[0][0]}: the header {lines[0][1][:60]!r} is not understood; name the "
            "columns image and caption, or leave the header out"
        )
    return found


def _pair(line: str, where: str) -> tuple[str, str]:
    """Divide a line into the picture and its caption."""
    cells = line.split("\t")
    while len(cells) > 2 and not cells[-1].strip():
        cells.pop()
    if len(cells) != 2:
        raise ValueError(
            f"{where}: {len(cells) - 1 or 'no'} TAB between picture and caption, "
            f"{line[:60]!r}; expected name.jpg<TAB>caption, or a table with a header such as "
            "image,caption"
        )
    name, caption = cells[0].strip(), cells[1].strip()
    if " " in name and " " not in caption and PICTURE.fullmatch(caption):
        raise ValueError(
            f"{where}: {line[:60]!r} has the picture behind the caption; swap the "
            "columns, or name them in a header such as caption<TAB>image"
        )
    return name, caption


def _unquoted(text: str) -> str:
    """Remove the quotes of cells if each line is a row of a table as programs write it.

    A caption in quotes of its own, such as `"Stop" says a sign`, makes no such row; then all quotes
    are characters, as in tables with a header.
    """
    if '"' not in text:
        return text
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True))
    except csv.Error:
        return text
    lines = text.removesuffix("\n").split("\n")
    if len(rows) != len(lines):
        return text  # a quote that is closed in another line
    for line, row in zip(lines, rows, strict=True):
        written = ('"' + cell.replace('"', '""') + '"' for cell in row if '"' in cell)
        if not all(cell in line for cell in written):
            return text  # a quote that no program would have left as it is
    return "\n".join("\t".join(row) for row in rows)


def _check_new(name: str, plain: str, seen: set[str], where: str) -> None:
    """Check that `name.jpg#0` comes once; `plain` is the name without such a number."""
    if name != plain and name in seen:
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
        return read_object(content)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); expected {FORMS}") from error
    except ValueError as error:
        named = str(error).startswith(str(path))
        raise error if named else ValueError(f"{path}: {error}") from error
