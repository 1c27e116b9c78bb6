"""Write files atomically: after a crash, either the old or the new file is there, complete.

The whole library writes its files by this module, and results of several files by
`itm.utils.folders`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

UNFINISHED = r"\.\d+-[0-9a-f]{8}\.unfinished"  # ends the names of files being written


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Write a file beside `path` and rename it when it is complete and on disk.

    Several processes may write the same file: each uses a different temporary name, and the last
    one to finish wins. A kill leaves `path` as it was; the next write removes the unfinished
    file. An error leaves nothing behind. In a folder that is still being written, the file is
    brought to disk with the folder, by `itm.utils.folders.put`.

    Raises:
        OSError: the file cannot be written, or `path` is a folder, a device or a pipe; what was
            there is unchanged.
    """
    path = _checked(path)
    in_the_making = _is_in_the_making(path)
    if not in_the_making:
        _remove_abandoned(path)
    with _locked_file(path) as file:
        try:
            yield file
            file.flush()
            if not in_the_making:
                os.fsync(file.fileno())
            if fcntl is None:  # Windows does not rename open files
                file.close()
            os.replace(file.name, path)
        except BaseException as error:
            with suppress(OSError):  # it fails again to write what is left
                file.close()
            Path(file.name).unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(path)  # "No space left on device" alone does not tell where
            raise
    if not in_the_making:
        sync(path.parent)


@contextmanager
def unfinished_beside(path: str | Path) -> Iterator[Path]:
    """Yield a name beside `path`; the file written there replaces `path` at the end.

    For libraries that open files by name; use `replacing` for everything else.

    Raises:
        OSError: as in `replacing`.
    """
    path = _checked(path)
    unfinished = unfinished_name(path)
    unfinished.touch(exist_ok=False)
    mode = unfinished.stat().st_mode
    try:
        yield unfinished
        os.chmod(unfinished, mode)  # safetensors replaces the file by a private one
        if not _is_in_the_making(path):
            sync(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if not _is_in_the_making(path):
        sync(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8 by `replacing`."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: str | Path, content: Any, indent: int | None = None) -> None:
    """Write plain data as JSON by `replacing`."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=indent))


def write_array(path: str | Path, array: np.ndarray) -> None:
    """Write an array as .npy by `replacing`."""
    import numpy as np  # late: `--help` need not wait for it

    with replacing(path) as file:
        np.save(file, array, allow_pickle=False)


def move(source: Path, target: Path) -> None:
    """Give a complete file its final name; a file of that name is replaced."""
    sync(source)
    os.replace(source, target)
    sync(target.parent)


def unfinished_name(path: Path) -> Path:
    """Return a hidden name beside `path` that only this call uses; see `UNFINISHED`."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.unfinished")


def _is_in_the_making(path: Path) -> bool:
    """Tell whether a file is in a folder that `itm.utils.folders` will bring to disk and rename."""
    return any(re.search(f"{UNFINISHED}$", part) for part in path.parts[:-1])


def unfinished_files(path: Path) -> list[Path]:
    """List the names of `unfinished_name` that exist beside `path`."""
    pattern = re.compile(re.escape(f".{path.name}") + UNFINISHED)
    with os.scandir(path.parent) as entries:
        return [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name)]


def lock(handle: int) -> bool:
    """Lock an open file or folder for this process; the lock ends with the handle.

    Returns:
        False if another process holds the lock. True also if there are no locks here: on Windows
        and on some network file systems.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def sync(path: Path) -> None:
    """Bring a file or the names in a folder to disk, so that they survive a power cut."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checked(path: str | Path) -> Path:
    """Make the folder of `path`, and refuse to replace anything but a regular file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: a folder has this name")
    if path.exists() and not path.is_file():
        raise OSError(f"cannot write {path}: it is a device or a pipe, not a regular file")
    return path


def _locked_file(path: Path) -> BinaryIO:
    """Open a new unfinished file of `path` and lock it, so that no other process removes it."""
    while True:
        unfinished = unfinished_name(path)
        file = open(unfinished, "xb")  # noqa: SIM115 - the caller closes it
        if lock(file.fileno()) and unfinished.exists():
            return file
        file.close()  # another process took it for abandoned before it was locked


def _remove_abandoned(path: Path) -> None:
    """Remove unfinished files of `path` that no process locks: their writers have ended."""
    if fcntl is None:
        return
    for file in unfinished_files(path):
        with suppress(OSError), open(file, "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails without support for locks
            file.unlink()
