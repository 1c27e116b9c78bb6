"""Write a folder as a whole, in the place of an earlier result and of nothing else.

A folder under construction has the name of the result and `.unfinished`, and stands beside it. It
takes the result's name when it is complete, so a reader finds the old result or the new one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from itm.utils.files import write_text
from itm.utils.provenance import RECORDS, checksums, listed, other_settings, read_record

CLEARED = "cleared"  # the key of a record whose other files are being deleted


@contextmanager
def building(
    folder: str | Path,
    record: str,
    settings: Mapping[str, Any],
    overwrite: bool = False,
    resume: bool = False,
) -> Iterator[Path]:
    """Give a folder to write a result into; it takes its place as a whole when the block ends.

    A kill leaves the old result, or none, and the unfinished folder. After an error it is removed,
    unless `resume`.

    Args:
        folder: the result.
        record: one of `RECORDS`; the block may add keys to it.
        settings: what the result is made of.
        overwrite: replace a result of other settings.
        resume: go on with an unfinished folder of the same settings.

    Raises:
        ValueError: the folder holds files of others or, without `overwrite`, another result; or
            another process writes it.
    """
    folder = Path(folder).expanduser().resolve()
    check_target(folder, record, settings, overwrite)
    work = folder.with_name(f"{folder.name}.unfinished")
    work.parent.mkdir(parents=True, exist_ok=True)
    with _locked(work):
        begun = read_record(work, record)
        if begun is None and any(not p.name.startswith(".") for p in work.iterdir()):
            raise ValueError(f"{work} holds files of others; move them, or choose another out=")
        other = [] if begun is None else other_settings(begun, settings)
        if resume and other and not overwrite:
            raise ValueError(
                f"{work} was begun with other {', '.join(other)}; choose another out=, delete it, "
                "or give overwrite=true to begin again"
            )
        if begun is None or other or not resume or CLEARED in begun:
            _clear(work, record)
            write_text(work / record, json.dumps({"settings": dict(settings)}))
        try:
            yield work
        except BaseException:
            if not resume:
                _remove(work, record)
            raise
        for litter in work.glob(".*.unfinished"):  # of a kill
            litter.unlink()
        names = sorted(p.relative_to(work).as_posix() for p in work.rglob("*") if p.is_file())
        names.remove(record)
        content = read_record(work, record) or {}
        write_text(work / record, json.dumps({**content, "files": checksums(work, names)}))
        _replace(work, folder, record)


def check_target(
    folder: Path, record: str, settings: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Check that a result may be written to a folder.

    Raises:
        ValueError: the folder holds files of others or, without `overwrite`, another result.
    """
    _recover(folder, record)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"out={folder} is a file; expected a folder, which may be new")
    content = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    if not content:
        return
    records = {name: read_record(folder, name) for name in RECORDS}
    own = records.get(record)
    if own is not None and "splits" in own and "files" not in own:
        raise ValueError(
            f"out={folder} was written by an earlier version, which kept no list of its files; use "
            "it as it is, delete it, or choose another out="
        )
    files = listed(records)
    foreign = [name for name in content if name not in files]
    if own is None or foreign:
        raise ValueError(
            f"out={folder} holds files that this command did not make, such as "
            f"{', '.join(foreign[:3] or content[:3])}; choose another out=, or move them away"
        )
    if not overwrite:
        other = ", ".join(other_settings(own, settings))
        made = f"other {other}" if other else "these options"
        raise ValueError(
            f"out={folder} was made with {made}; "
            "choose another out=, or give overwrite=true to replace the whole folder"
        )
    now = checksums(folder, content)
    changed = [name for name in content if files[name] not in (None, now[name])]
    if changed:
        raise ValueError(
            f"out={folder} holds files that were changed since, such as {', '.join(changed[:3])}; "
            "move them away, or choose another out="
        )


def _replaced(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.replaced")


def _replace(work: Path, folder: Path, record: str) -> None:
    """Rename a complete folder to its name; an old result makes way first, and is then deleted."""
    old = _replaced(folder)
    if folder.exists() and any(folder.iterdir()):
        folder.rename(old)
    elif folder.exists():
        folder.rmdir()
    work.rename(folder)
    if old.exists():
        _remove(old, record)


def _recover(folder: Path, record: str) -> None:
    """Bring back, or delete, the old result of a process that ended in `_replace`."""
    old = _replaced(folder)
    if not old.is_dir():
        return
    content = read_record(old, record)
    if content is None and any(old.iterdir()):
        raise ValueError(f"{old} holds files of others; move them, or choose another out=")
    if content is None or CLEARED in content or folder.exists():
        _remove(old, record)
    else:
        old.rename(folder)


def _clear(folder: Path, record: str) -> None:
    """Delete all files of a folder but its record, which says so, so that a kill is noticed."""
    write_text(folder / record, json.dumps({CLEARED: True}))
    for path in folder.iterdir():
        if path.name != record:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove(folder: Path, record: str) -> None:
    _clear(folder, record)
    (folder / record).unlink()
    folder.rmdir()


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Make a folder and keep it for this process, or refuse if another process has it.

    Raises:
        ValueError: another process has it.
    """
    work.mkdir(exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{work} is in use: another process writes it") from None
        except OSError:  # a file system without locks
            pass
        if not work.exists() or not os.path.samestat(os.fstat(handle), work.stat()):
            raise ValueError(f"{work} was just finished by another process; try again")
        yield
    finally:
        os.close(handle)
