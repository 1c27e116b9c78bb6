"""Replace files at once: after a crash there is the whole old file or the whole new one."""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Write a file beside `path` and put it in its place at once, when it is complete and on disk.

    Several processes may write the same file: each has an unfinished file of its own, and the last
    one to finish wins. A kill leaves `path` as it was and the unfinished file beside it, which
    nothing reads. An error leaves nothing.

    Raises:
        OSError: the file cannot be written; `path` is as it was.
    """
    with unfinished_beside(path) as unfinished, unfinished.open("r+b") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def unfinished_beside(path: str | Path) -> Iterator[Path]:
    """Give the name of a new file beside `path`, which takes its place when the block ends.

    For libraries that open files by name; `replacing` is for all others.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(f".{path.name}.unfinished", f".{os.getpid()}-", path.parent)
    os.close(handle)
    unfinished = Path(name)
    try:
        yield unfinished
        unfinished.chmod(0o666 & ~_umask())  # mkstemp makes a file for this user only
        _sync(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the rename survives a power cut, too
        _sync(path.parent)


def _umask() -> int:
    """Return the process's mask for new files, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """`Path.write_text` in UTF-8 by way of `replacing`."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def replacing_folder(folder: str | Path, last: str, stale: Iterable[str] = ()) -> Iterator[Path]:
    """Give a new folder to write into, whose files take their places when the block ends.

    A new folder appears at once. In one that exists, files are replaced one by one, and the
    manifest comes last: if the process ends between two files, `check_manifest` refuses the folder.
    An error in the block changes nothing; files that were not written stay.

    Args:
        folder: the result.
        last: the file that holds `manifest`.
        stale: files of an earlier result to remove, if they were not written again.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    parent, begin = folder.resolve().parent, f".{os.getpid()}-"
    unfinished = Path(tempfile.mkdtemp(f".{folder.resolve().name}.unfinished", begin, parent))
    try:
        yield unfinished
        unfinished.chmod(0o777 & ~_umask())
        files = [file for file in unfinished.rglob("*") if file.is_file()]
        for file in files:
            _sync(file)
        if not folder.exists():
            unfinished.replace(folder)
        else:
            files.sort(key=lambda file: file == unfinished / last)
            gone = [name for name in stale if not (unfinished / name).exists()]
            for file in files:
                place = folder / file.relative_to(unfinished)
                place.parent.mkdir(parents=True, exist_ok=True)
                if file == unfinished / last:
                    for name in gone:
                        (folder / name).unlink(missing_ok=True)
                file.replace(place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    if os.name == "posix":
        _sync(folder)
        _sync(parent)


def manifest(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the checksums of files in a folder by name; files that do not exist are left out."""
    return {name: _checksum(folder / name) for name in names if (folder / name).is_file()}


def check_manifest(folder: Path, files: Any) -> None:
    """Compare files with the checksums of `manifest`.

    Args:
        folder: that the files are in.
        files: name -> checksum; None for a folder of a version that wrote none.

    Raises:
        ValueError: a file is missing, damaged, or of another result.
    """
    if files is None:
        return
    if not isinstance(files, Mapping):
        raise ValueError(f"{folder}: its list of files is a {type(files).__name__}")
    for name, checksum in files.items():
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise ValueError(f"{folder}: its list of files names {name}, which is outside of it")
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing: copy the whole folder or write it again")
        if _checksum(folder / name) != checksum:
            raise ValueError(
                f"{folder / name} is damaged or was written by another command than the rest of "
                "its folder: its checksum differs; write the folder again"
            )


def _checksum(path: Path) -> str:
    """CRC-32 of a file, which notices every flipped bit; it does not protect against intent."""
    found = 0
    with path.open("rb") as file:
        while piece := file.read(2**20):
            found = zlib.crc32(piece, found)
    return f"{found:08x}"
