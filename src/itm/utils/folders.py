"""Write a result of several files at once, and read one while another process writes it."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from itm.utils.errors import InUseError, TakenError
from itm.utils.files import lock, sync, unfinished_files, unfinished_name

T = TypeVar("T")
ATTEMPTS = 20  # to read a folder that others replace meanwhile


@contextmanager
def replacing_folder(
    folder: str | Path, last: str, names: Iterable[str], own: Callable[[Path], bool]
) -> Iterator[Path]:
    """Yield a new folder to write into; it replaces `folder` when the block ends.

    An error or a kill in the block changes nothing; see `put` for the last step.

    Args:
        folder: the result.
        last: name of its manifest; a folder without it is incomplete.
        names: all files that such a result may have. Files of an earlier result that were not
            written again are removed; files and links with other names stay, empty folders may not.
        own: tells whether a manifest in the folder belongs to a result that may be replaced.

    Raises:
        TakenError: files with these names are there, but no result that may be replaced.
        InUseError: another process writes the same result.
        OSError: a file cannot be written.
    """
    folder = Path(os.path.realpath(folder))
    names = {last, mark(last), *names}
    with locked(folder):
        check_own(folder, last, names, own)
        with scratch_beside(folder) as scratch:
            yield scratch
            put(scratch, folder, last, names)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder and keep it for this process until the block or the process ends.

    What killed processes left beside it is removed. After an error, a new folder that is still
    empty is removed as well.

    Raises:
        TakenError: it is a file.
        InUseError: another process has locked it.
        OSError: it cannot be made.
    """
    made = not folder.exists()
    if not made and not folder.is_dir():
        raise TakenError(f"{folder} is a file; give the name of a folder")
    folder.mkdir(parents=True, exist_ok=True)
    handle = _lock(folder)
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise
    finally:
        if handle is not None:
            os.close(handle)


def put(scratch: Path, folder: Path, last: str, names: Iterable[str]) -> None:
    """Replace a locked folder by a complete new one; the old one may end up at `scratch`.

    The two folders change places in one step. Files are instead moved one by one, with the manifest
    removed first and written last, if the folder also holds other files, if it is the current
    folder or a mount point, or if the system cannot exchange folders: a kill between two moves then
    leaves a folder without a manifest, which readers refuse.

    Args:
        scratch: has the new files, and the manifest.
        folder: the result.
        last: name of the manifest.
        names: files of the earlier result that are removed.

    Raises:
        OSError: a file cannot be written.
    """
    names = {last, mark(last), *names}
    shutil.copymode(folder, scratch)
    for path in [*scratch.rglob("*"), scratch]:
        sync(path)
    apart = scratch.parent == folder or _is_current(folder) or bool(_files(folder) - names)
    if apart or not _exchange(scratch, folder):
        _move(scratch, folder, last, names)
    sync(folder.parent)


@contextmanager
def scratch_beside(folder: Path) -> Iterator[Path]:
    """Yield an empty folder on the same disk as a locked one; it is removed at the end."""
    scratch = unfinished_name(beside(folder))
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def beside(folder: Path) -> Path:
    """Return a path whose neighbours can be renamed to `folder`; inside it for a mount point."""
    same_disk = folder.parent.stat().st_dev == folder.stat().st_dev
    return folder if same_disk and os.access(folder.parent, os.W_OK) else folder / folder.name


def discard(path: Path, folder: Path) -> None:
    """Remove a folder that stands beside `folder`; after a kill, `locked` removes the rest."""
    if path.exists():
        aside = unfinished_name(beside(folder))
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def mark(last: str) -> str:
    """Name the copy of a manifest that marks the owner of the files while they are moved."""
    return f".{last}.unfinished"


def check_unmarked(folder: Path) -> None:
    """Raise ValueError if a command was killed while it moved its files into a folder."""
    for found in folder.glob(mark("*.json")):
        last = found.name[1:].removesuffix(".unfinished")
        if not (folder / last).exists():
            raise ValueError(
                f"{folder} may mix files of two results: the command that wrote it ended early and "
                f"left {found.name} but no {last}; run the command again"
            )


def read_whole(manifest: Path, read: Callable[[], T]) -> T:
    """Read a folder, again if another process replaced it meanwhile.

    Args:
        manifest: the file that every write of the folder replaces.
        read: reads the folder's files.

    Raises:
        OSError: the folder was replaced during each of many attempts; or what `read` raises.
        ValueError: what `read` raises.
    """
    for _ in range(ATTEMPTS):
        before = _identity(manifest)
        try:
            found = read()
        except (OSError, ValueError):
            if _identity(manifest) == before:
                raise
        else:
            if _identity(manifest) == before:
                return found
    raise OSError(f"{manifest.parent} is replaced again and again while it is read; try later")


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _lock(folder: Path) -> int | None:
    """Lock a folder and return the handle that holds the lock."""
    if os.name != "posix":
        return None
    while True:
        handle = os.open(folder, os.O_RDONLY)
        free = lock(handle)
        with suppress(FileNotFoundError):
            if free and os.fstat(handle).st_ino == folder.stat().st_ino:
                break
        os.close(handle)  # another process has the lock, or has just exchanged the folder
        if not free:
            raise InUseError(f"{folder} is being written by another process; try later")
    for near in {folder, beside(folder)}:
        for path in unfinished_files(near):  # of processes that were killed
            shutil.rmtree(path, ignore_errors=True)
    return handle


def check_own(folder: Path, last: str, names: Iterable[str], own: Callable[[Path], bool]) -> None:
    """Check that `replacing_folder` may write to a folder; its arguments are the same.

    Raises:
        TakenError: files with these names are there, but no result that may be replaced.
    """
    found = sorted(_files(folder) & {last, mark(last), *names})
    manifests = (folder / name for name in (last, mark(last)) if name in found)
    if found and not any(own(manifest) for manifest in manifests):
        raise TakenError(
            f"{folder} holds {', '.join(found)}, which this command did not write or did not "
            "finish; nothing was changed: choose another folder, or move these files away"
        )


def _files(folder: Path) -> set[str]:
    """Return the names of all files and links below a folder, with / between their parts."""
    found = (p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    return {path.relative_to(folder).as_posix() for path in found}


def _is_current(folder: Path) -> bool:
    """Whether the process works in the folder or below: an exchange would take it away."""
    with suppress(OSError):
        return Path(os.path.realpath(os.getcwd())).is_relative_to(folder)
    return True


def _exchange(new: Path, old: Path) -> bool:
    """Let two folders change places in one step; False if the system cannot do that."""
    if not sys.platform.startswith("linux"):
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return call is not None and call(here, bytes(new), here, bytes(old), exchange) == 0


def _move(scratch: Path, folder: Path, last: str, names: set[str]) -> None:
    """Move files one by one; until the manifest arrives, the folder has only a mark of its kind."""
    written = _files(scratch)
    shutil.copyfile(scratch / last, folder / mark(last))
    (folder / last).unlink(missing_ok=True)
    sync(folder)
    for name in sorted(written - {last}):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch / name, folder / name)
    for name in sorted((_files(folder) & names) - written - {mark(last)}):
        (folder / name).unlink()
    for part in {Path(name).parent for name in written}:
        sync(folder / part)
    os.replace(scratch / last, folder / last)
    (folder / mark(last)).unlink()
    sync(folder)
