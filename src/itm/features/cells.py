"""Read the cells of tables of captions: names of pictures, sentences and lists of sentences."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from typing import Any

EXACT = 2**53  # larger decimals have lost digits
NOTHING = {"nan", "none", "null", "n/a", "<na>"}  # how programs write an empty cell
# ["A", "B"] or ('A', 'B'), objects, sets, what numpy prints, and [A, B] without quotes.
LISTED = re.compile(
    r"""\s*(\[\s*['"\]{]|\(\s*('[^']*'|"[^"]*")\s*,|\{\s*['"]|array\(|\[[^\]]*,[^\]]*\]\s*$)"""
)
PICTURE = re.compile(r"[^,\t;|\n]+\.(jpe?g|png|gif|bmp|webp|tiff?)(#\d+)?", re.I)


def read_name(value: Any, key: str, line: int) -> str:
    """Turn the JSON value of a picture into its name: a string or a whole number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{line}: expected the name or number of a picture in {key!r}: {value!r}")
    return str(value)


def read_texts(value: Any, line: int) -> list[str]:
    """Return the captions of a JSON value: a sentence or a list of (raw) sentences."""
    values = value if isinstance(value, list) else [value]
    texts: list[Any] = [v.get("raw") if isinstance(v, dict) else v for v in values]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{line}: expected a sentence or a list of sentences, found {value!r}")
    return texts


def read_cell(cell: str, line: int) -> list[str]:
    """Return the captions of a cell: a sentence, or a list of them in JSON or Python's form."""
    if cell.strip().lower() in NOTHING:
        return [""]
    if not LISTED.match(cell):
        return [cell]
    # Python joins strings without a comma, as numpy prints them, to one.
    for parse in () if re.search(r"['\"]\s+['\"]", cell) else (json.loads, ast.literal_eval):
        try:
            found = parse(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, (list, tuple)):
            return read_texts(list(found), line) or [""]
    raise ValueError(f"{line}: {cell[:60]!r} is not a complete list of captions")


def check_sentences(captions: Iterable[str]) -> None:
    """Refuse captions that are all names or numbers, as in the tables of Crisscrossed Captions."""
    captions = list(captions)
    if captions and all(re.fullmatch(r"\S*\d", caption) for caption in captions):
        raise ValueError(
            f"its captions are names or numbers, such as {captions[0]!r}; expected sentences, so "
            "join it with the file that holds them"
        )


def check_name(name: str, line: int) -> None:
    """Refuse a picture's name that is in quotes, or that a program wrote for an empty cell."""
    if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"`":
        raise ValueError(
            f"{line}: the picture {name} is in quotes that this table does not use; remove them"
        )
    if name.lower() in NOTHING:
        raise ValueError(f"{line}: the picture is {name!r}, as programs write an empty cell")


def check_swallowed(cell: str, delimiter: str, line: int) -> None:
    """Refuse a quoted caption that runs over the rows below it."""
    for more in cell.split("\n")[1:]:
        name, found, _ = more.partition(delimiter)
        name = name.strip().strip('"')
        if PICTURE.fullmatch(name) or (found and re.fullmatch(r"\S*\d", name)):
            raise ValueError(f"{line}: a quote is not closed above {more[:60]!r}")


def is_rule(row: list[str]) -> bool:
    """Tell whether a row is the line below the header of a Markdown table."""
    return all(re.fullmatch(r"\s*(:?-{2,}:?)?\s*", cell) for cell in row)
