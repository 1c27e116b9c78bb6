"""Files that are the old one or the new one, whole, whenever the process, disk or power ends."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Write a file beside `path` and put it in its place at once, when it is complete and on disk.

    Several processes may write the same file: each has an unfinished file of its own, and the last
    one to finish wins. A kill leaves `path` as it was and the unfinished file beside it, which
    nothing reads. An error leaves nothing.

    Raises:
        OSError: the file cannot be written; `path` is as it was.
    """
    with unfinished_beside(path) as unfinished:
        with unfinished.open("r+b") as file:
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
