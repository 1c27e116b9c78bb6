"""Read files of one entry per line: captions and ids."""

from __future__ import annotations

import re
import unicodedata
from codecs import BOM_UTF8
from pathlib import Path

from itm.utils.contents import describe_content
from itm.utils.readers import check_regular

NUMBERED = re.compile(r"\d+\s*[,;|]\s*\S")
NAMED = re.compile(r"[^\s,;|]+\.(jpe?g|png|gif|bmp|webp|tiff?)(#\d+)?\s*[\t,;|]", re.I)
UNSEEN = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # Unicode categories that show nothing


def read_captions(path: Path) -> list[str]:
    r"""Read the captions of a file, one per line; only "\n" ends a line.

    Text mode would also split at carriage returns and rare separators, and so shift every later
    caption.

    Raises:
        ValueError: a line is blank or not UTF-8; the message gives its number.
        OSError: the file cannot be read.
    """
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
