"""Tell what a file holds by its first bytes, and read text with an error that says so."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from itm.utils.readers import check_regular

KINDS = {  # first bytes -> what the file is, and what to do
    b"\x1f\x8b": "compressed by gzip: unpack it with gzip -d",
    b"BZh": "compressed by bzip2: unpack it with bzip2 -d",
    b"\xfd7zXZ": "compressed by xz: unpack it with xz -d",
    b"PK\x03\x04": "a zip archive, such as .npz, .zip, .xlsx or a checkpoint of PyTorch: unpack "
    "it, or save its array or table as a file of the expected kind",
    b"\x89HDF": "an HDF5 file: convert it with itm.prepare from=hdf5",
    b"\x93NUMPY": "a .npy file",
    b"\x80": "a Python pickle: pickles are not read here, save plain arrays or text",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself with git lfs pull",
    b"<!DOCTYPE": "a web page, perhaps of a failed download: download the file again",
    b"<html": "a web page, perhaps of a failed download: download the file again",
    b"ARROW1": "an Arrow file of Hugging Face's datasets: write its table as .csv, with to_csv",
    b"PAR1": "a Parquet file: write its table as .csv, for example with pandas",
    b"\xd0\xcf\x11\xe0": "a file of Excel or Word: save the table as .csv in UTF-8",
    b"%PDF": "a PDF",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it with zstd -d",
    b"7z\xbc\xaf": "a 7z archive: unpack it with 7z x",
    b"Rar!": "a RAR archive: unpack it",
    b"SQLite format 3": "a SQLite database: export its table as .csv",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"MATLAB": "a MATLAB file: save its array with np.save, in Python with scipy.io.loadmat",
    b"\xff\xfe": "text in UTF-16: convert it with iconv -f utf-16 -t utf-8",
    b"\xfe\xff": "text in UTF-16: convert it with iconv -f utf-16 -t utf-8",
}
LMDB = b"\xde\xc0\xef\xbe"  # at bytes 16 to 19
TORCH = (b"PK\x03\x04", b"\x80", b"")  # beginnings of files of PyTorch; b"" = any zero bytes
NULS = 0.2  # with a larger share of zero bytes, text is taken for UTF-16 without a byte order mark


def describe_content(data: bytes, expected: Collection[bytes] = ()) -> str | None:
    """Describe what a file is by its first bytes; None if it may be text or is unknown.

    Args:
        data: the first bytes, or all.
        expected: keys of `KINDS` to accept; b"" accepts zero bytes.
    """
    for start, kind in KINDS.items():
        if data.startswith(start):
            return None if start in expected else kind
    if data[16:20] == LMDB:
        return "an LMDB database, whose values are usually pickles: docs/features.md converts it"
    first = data[:4096]
    if b"" not in expected and first.count(0) > NULS * len(first):
        return "binary, or text in UTF-16: convert text with iconv -f utf-16le -t utf-8"
    return None


def describe_file(path: Path, expected: Collection[bytes] = ()) -> str | None:
    """Describe a file as `describe_content` does.

    Raises:
        OSError: the file cannot be opened.
    """
    check_regular(path)
    with path.open("rb") as file:
        return describe_content(file.read(4096), expected)


def read_text(path: Path) -> str:
    """Read a text in UTF-8, without its byte order mark.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is a folder, or not text in UTF-8; the message says what it is instead,
            or names the line.
    """
    check_regular(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a file of text")
    data = path.read_bytes()
    check_utf8(data, path)
    return data.removeprefix(BOM_UTF8).decode("utf-8")


def check_utf8(data: bytes, path: Path) -> None:
    """Check that the bytes of a file are text in UTF-8.

    Raises:
        ValueError: they are something else; names the kind or the line.
    """
    kind = describe_content(data)
    if kind is not None:
        raise ValueError(f"{path}:1: not UTF-8 text but {kind}")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        byte = error.start - (data.rfind(b"\n", 0, error.start) + 1)
        raise ValueError(
            f"{path}:{line}: not UTF-8 ({error.reason} at byte {byte}); convert the file, for "
            f"example with iconv -f latin1 -t utf-8 {path.name}"
        ) from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the dict of a JSON object; an `object_pairs_hook` of `json.loads`.

    Raises:
        ValueError: a key that occurs twice; without this check the last value would win.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {counts.most_common(1)[0][0]!r} occurs twice")
    return found


def parse_json(text: str) -> Any:
    """Parse JSON whose objects hold each key once.

    Raises:
        ValueError: not JSON, or a key that occurs twice.
    """
    return json.loads(text, object_pairs_hook=unique_keys)
