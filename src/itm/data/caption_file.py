"""Read files of one entry per line: captions and ids."""

from __future__ import annotations

import unicodedata
from codecs import BOM_UTF8
from pathlib import Path

UNSEEN = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # Unicode categories that show nothing


def read_captions(path: Path) -> list[str]:
    r"""Read the captions of a file, one per line; only "\n" ends a line.

    Text mode would also split at carriage returns and rare separators, and so shift every later
    caption.

    Raises:
        ValueError: a line is blank or not UTF-8; the message gives its number.
        OSError: the file cannot be read.
    """
    lines = path.read_bytes().removeprefix(BOM_UTF8).split(b"\n")
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


def is_blank(text: str) -> bool:
    """Tell whether a text shows nothing: blanks of any kind, controls, zero-width characters."""
    return not text or (
        not text[0].isalnum() and all(unicodedata.category(c) in UNSEEN for c in text)
    )
