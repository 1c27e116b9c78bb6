"""Read files of one entry per line: captions and ids."""

from __future__ import annotations

import csv
import re
import unicodedata
from codecs import BOM_UTF8
from pathlib import Path

from itm.utils.contents import describe_content
from itm.utils.readers import check_regular

NUMBERED = re.compile(r"\d+\s*[,;|]\s*\S")
NAMED = re.compile(r"[^\s,;|]+\.(jpe?g|png|gif|bmp|webp|tiff?)(#\d+)?\s*[\t,;|]", re.I)
UNSEEN = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # Unicode categories that show nothing


def caption_path(root: Path, name: str) -> Path:
    """Choose the caption file of a split: `{split}_caps.txt`, or CC152K's `{split}_caps.tsv`.

    Raises:
        ValueError: the folder holds both.
    """
    text, table = root / f"{name}_caps.txt", root / f"{name}_caps.tsv"
    if text.is_file() and table.is_file():
        raise ValueError(f"{root} has captions in {text.name} and {table.name}; remove one of them")
    return table if table.is_file() else text


def read_pairs(path: Path) -> tuple[list[str], list[str]]:
    """Read the ids and captions of CC152K (Huang et al., NeurIPS 2021): id<TAB>caption, no header.

    Raises:
        ValueError: a line is not UTF-8, blank, or not two cells; or a quote is not closed.
        OSError: the file cannot be read.
    """
    lines = read_captions(path, whole=True)
    rows = list[list[str]]()
    try:
        rows += csv.reader([f"{line}\n" for line in lines], delimiter="\t")
    except csv.Error as error:  # an open quote takes in the lines behind it, up to csv's limit
        raise ValueError(
            f"{path}:{len(rows) + 1}: {error}, as after a quote that is not closed; expected "
            "id<TAB>caption"
        ) from error
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or any("\n" in cell.rstrip("\n") for cell in row):
            raise ValueError(
                f"{path}:{number}: {' '.join(row)[:60]!r} has {len(row)} cells, or a quote that is "
                "not closed; expected id<TAB>caption"
            )
        if is_blank(row[0].strip()) or is_blank(row[1].strip()):
            raise ValueError(f"{path}:{number}: an empty id or caption")
    return [row[0].strip() for row in rows], [row[1].strip() for row in rows]


def read_captions(path: Path, whole: bool = False) -> list[str]:
    r"""Read the captions of a file, one per line; only "\n" ends a line.

    Args:
        path: a text; of a .tsv file the second column is read, see `read_pairs`.
        whole: return the lines of a .tsv file as they are.

    Text mode would also split at carriage returns and rare separators, and so shift every later
    caption.

    Raises:
        ValueError: a line is blank or not UTF-8; the message gives its number.
        OSError: the file cannot be read.
    """
    if path.suffix == ".tsv" and not whole:
        return read_pairs(path)[1]
    check_regular(path)
    data = path.read_bytes()
    if kind := describe_content(data):
        raise ValueError(f"{path}:1: not UTF-8 text but {kind}")
    lines = data.removeprefix(BOM_UTF8).split(b"\n")
    if lines and not lines[-1].strip():
        lines.pop()
    captions = []
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start}); convert the "
                "file, for example with iconv -f latin1 -t utf-8"
            ) from error
        if is_blank(text):
            raise ValueError(f"{path}:{number}: blank line; every line must hold one entry")
        captions.append(text)
    return captions


def check_sentences(captions: list[str], path: Path) -> None:
    """Check that the lines of a caption file are sentences and not rows of a table.

    Raises:
        ValueError: all of the first lines, perhaps below a header, begin with the name or number of
            a picture, hold a TAB, or are JSON objects.
    """
    first = captions[1:21] or captions
    kinds = {
        "begin with numbers and a delimiter": lambda line: NUMBERED.match(line),
        "begin with the names of pictures": lambda line: NAMED.match(line),
        "hold a TAB, as in a table": lambda line: "\t" in line,
        "are JSON objects": lambda line: line.startswith("{") and line.endswith("}"),
    }
    for kind, matches in kinds.items():
        if all(matches(line) for line in first):
            raise ValueError(
                f"{path}: the lines {kind}, such as {first[0][:60]!r}; expected one caption a line "
                "and nothing else. Convert tables of captions with itm.prepare from=..., or keep "
                "only the column of the captions"
            )


def is_blank(text: str) -> bool:
    """Tell whether a text shows nothing: blanks of any kind, controls, zero-width characters."""
    return not text or (
        not text[0].isalnum() and all(unicodedata.category(c) in UNSEEN for c in text)
    )
