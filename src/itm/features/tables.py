"""Read tables of captions: delimiters, headers and rows of .csv, .tsv and .jsonl files.

A header is understood or refused; it never becomes a caption, and a sentence is never cut.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from itm.features.cells import (
    PICTURE,
    check_name,
    check_swallowed,
    is_rule,
    read_cell,
    read_name,
    read_texts,
)

# Names of columns in lower case, the most specific first: Flickr8k and Flickr30K (Kaggle),
# Karpathy, open_clip, `metadata.csv` of Hugging Face, COCO and Conceptual Captions as tables.
NAMES = (
    "filename", "file_name", "image", "image_name", "image_file", "img", "img_name", "file",
    "filepath", "file_path", "image_path", "img_path", "path", "picture", "photo", "photo_id",
    "image_id", "imgid", "img_id", "imageid", "cocoid", "coco_id", "name", "key", "id",
)  # fmt: skip
CAPTIONS = (
    "caption", "captions", "sentence", "sentences", "text", "texts", "comment", "raw", "title",
    "description",
)  # fmt: skip
WEAK = ("name", "key", "id")  # may also name the row or a person
SPLITS = ("split", "splits", "subset", "set", "partition")
NUMBERS = ("comment_number", "caption_number")
DELIMITERS = ",\t;|"


class Row(NamedTuple):
    """One picture of a table with one or several captions.

    Attributes:
        line: last line of the row in the file.
        name: name of the picture.
        captions: its captions in this row.
        split: empty if the table has no such column.
    """

    line: int
    name: str
    captions: list[str]
    split: str = ""


class Columns(NamedTuple):
    """The positions of the columns of a table.

    Attributes:
        name: column of the picture.
        captions: columns of captions.
        split: column of the split, or None.
        width: how many columns there are.
        number: column of the caption's number, or None.
    """

    name: int
    captions: list[int]
    split: int | None
    width: int
    number: int | None = None


def find_columns(header: Sequence[str]) -> Columns | None:
    """Find the columns of a header; None if it names no picture or no caption.

    Numbered columns, such as caption_1 to caption_5, all hold captions.

    Raises:
        ValueError: several columns could be the caption, or two have the picture's name.
    """
    cells = [re.sub(r"[ -]+", "_", cell.strip().lower()) for cell in header]
    name = next((cells.index(known) for known in NAMES if known in cells), None)
    plain = [re.sub(r"[ _]?\d+$", "", cell) for cell in cells]
    found = [i for i, cell in enumerate(plain) if cell in CAPTIONS and i != name]
    if name is None or not found:
        return None
    if len({plain[i] for i in found}) > 1 or len({cells[i] for i in found}) < len(found):
        raise ValueError(
            f"the header {list(header)} has several columns that could be the caption: "
            f"{', '.join(header[i] for i in found)}; keep one of them, or number them (caption_1)"
        )
    if cells.count(cells[name]) > 1:
        raise ValueError(f"the header {list(header)} has two columns {header[name]!r}; keep one")
    split, number = (
        next((cells.index(known) for known in names if known in cells), None)
        for names in (SPLITS, NUMBERS)
    )
    return Columns(name, found, split, len(cells), number)


def has_header(text: str) -> bool:
    """Tell whether the first line of a text is a header, understood or ambiguous."""
    try:
        return _dialect(_first_line(text)) is not None
    except ValueError:  # `read_table` raises it with the line
        return True


def read_table(text: str, delimiters: str = DELIMITERS) -> Iterator[Row]:
    """Read the rows of a table whose first line is a header, or `picture,caption`.

    Raises:
        ValueError: the header is not understood, a row has another number of cells, or a quote is
            not closed; the message begins with the number of the line.
    """
    first = _first_line(text)
    if not first:
        return
    try:
        dialect = _dialect(first)
    except ValueError as error:
        raise ValueError(f"1: {error}") from error
    if dialect is None:
        delimiter = next((d for d in delimiters if _is_pair(first, d)), None)
        if delimiter is None:
            raise ValueError(
                f"1: the header {first[:200]!r} is not understood; expected a column for the "
                f"picture, such as {', '.join(NAMES[:4])}, and one for the caption, such as "
                f"{', '.join(CAPTIONS[:5])}"
            )
        columns, header = Columns(0, [1], None, 2), None
    else:
        delimiter, columns = dialect
        header = next(_rows(first, delimiter))[1]
    try:
        rows = list(_rows(text, delimiter))
    except csv.Error as error:
        if delimiter != "\t":
            raise ValueError(
                f"{error}; quote a whole cell, double the quotes inside of it, and close them"
            ) from error
        rows = list(_rows(text, delimiter, quoted=False))  # quotes are ordinary characters
    exact = header is not None and f"{delimiter} " not in first  # no blank was skipped
    yield from _records(rows, columns, header, delimiter, exact)


def read_objects(entries: Iterable[tuple[int, Any]]) -> Iterator[Row]:
    """Read rows from (line, object) pairs, objects as in `metadata.jsonl`: {"file_name", "text"}.

    Raises:
        ValueError: an object has no picture or no caption; the message begins with the line.
    """
    for line, entry in entries:
        if not isinstance(entry, dict):
            raise ValueError(f"{line}: expected an object with a picture and a caption")
        keys = list(entry)
        try:
            columns = find_columns(keys)
        except ValueError as error:
            raise ValueError(f"{line}: {error}") from error
        if columns is None:
            raise ValueError(
                f"{line}: found {', '.join(keys)}; expected a picture, such as "
                f"{', '.join(NAMES[:4])}, and a caption, such as {', '.join(CAPTIONS[:5])}"
            )
        values = list(entry.values())
        _check_weak(columns, keys, [str(value) for value in values], line)
        captions = [text for at in columns.captions for text in read_texts(values[at], line)]
        split = "" if columns.split is None else str(values[columns.split] or "").strip().lower()
        yield Row(line, read_name(values[columns.name], keys[columns.name], line), captions, split)


def _first_line(text: str) -> str:
    return next((line for line in text.split("\n") if line.strip()), "")


def _dialect(first: str) -> tuple[str, Columns] | None:
    for delimiter in DELIMITERS:
        try:
            cells = next(_rows(first, delimiter))[1]
        except (csv.Error, StopIteration):
            continue
        columns = find_columns(cells)
        if columns is not None:
            return delimiter, columns
    return None


def _is_pair(first: str, delimiter: str) -> bool:
    """Tell whether a first line without header is a picture and its caption."""
    name, found, caption = first.partition(delimiter)
    name = name.strip().strip('"')
    return bool(found and caption.strip() and (PICTURE.fullmatch(name) or name.isdecimal()))


def _rows(text: str, delimiter: str, quoted: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Read rows and the numbers of their last lines; Flickr30K's "|" comes without quotes."""
    blank = f"{delimiter} " in _first_line(text)  # as in `image, caption`
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted and delimiter != "|" else csv.QUOTE_NONE,
        skipinitialspace=blank,
        strict=True,
    )
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise csv.Error(f"{reader.line_num}: {error}") from error
        if row is None:
            return
        yield reader.line_num, row


def _records(
    rows: Iterable[tuple[int, list[str]]],
    columns: Columns,
    header: list[str] | None,
    delimiter: str,
    exact: bool,
) -> Iterator[Row]:
    plain = None if header is None else _plain(header)
    for line, row in rows:
        if not any(cell.strip() for cell in row) or _plain(row) == plain or is_rule(row):
            continue
        cells = _whole(row, columns, header, line, delimiter, exact)
        if header is not None:
            _check_header(cells, header, line)
            _check_weak(columns, header, cells, line)
        check_name(cells[columns.name].strip(), line)
        captions = []
        for at in columns.captions:
            check_swallowed(cells[at], delimiter, line)
            captions += read_cell(cells[at], line)
        split = "" if columns.split is None else cells[columns.split].strip().lower()
        yield Row(line, cells[columns.name].strip(), captions, split)


def _plain(row: list[str]) -> list[str]:
    return [cell.strip().lower() for cell in row]


def _check_header(cells: list[str], header: list[str], line: int) -> None:
    """Refuse a second header with the columns in another order, as in tables joined to one."""
    if sorted(_plain(cells)) == sorted(_plain(header)):
        raise ValueError(
            f"{line}: a second header {cells} with the columns in another order; make two files"
        )


def _check_weak(columns: Columns, header: Sequence[str], cells: Sequence[str], line: int) -> None:
    """Refuse a column such as `id` as the picture's name if another column holds pictures."""
    if header[columns.name].strip().lower() not in WEAK or PICTURE.fullmatch(cells[columns.name]):
        return
    for at, cell in enumerate(cells):
        if at not in (columns.name, *columns.captions) and PICTURE.fullmatch(cell.strip()):
            raise ValueError(
                f"{line}: is {header[columns.name]}={cells[columns.name]!r} the picture, or "
                f"{header[at]}={cell!r}? Name the column of the pictures image"
            )


def _whole(
    row: list[str],
    columns: Columns,
    header: list[str] | None,
    line: int,
    delimiter: str,
    exact: bool,
) -> list[str]:
    """Fit a row to the columns of its header: join a last caption that was split."""
    while len(row) > columns.width and not row[-1].strip():
        row = row[:-1]
    last = columns.width - 1
    joined = re.fullmatch(r"\s*(\d+)\s{2,}(\S.*)", row[-1], re.S)
    if len(row) == last and joined and columns.captions == [last] and columns.number == last - 1:
        return [*row[:-1], *joined.groups()]  # a delimiter is missing in Kaggle's Flickr30K
    if len(row) > columns.width and columns.captions == [last] and exact:
        return [*row[:last], delimiter.join(row[last:])]
    if len(row) != columns.width:
        wanted = f"the {columns.width} columns of the header {header}" if header else "2 columns"
        raise ValueError(
            f"{line}: {row} has {len(row)} cells, expected {wanted}; quote captions that hold "
            f"{delimiter!r}"
        )
    after = columns.captions[-1] + 1
    blanks = [cell.startswith(" ") for cell in row[after - 1 : after + 1]]
    if exact and blanks == [False, True]:
        raise ValueError(
            f"{line}: {row} seems to have a caption that goes on in the next cell; quote captions "
            f"that hold {delimiter!r}"
        )
    return row
