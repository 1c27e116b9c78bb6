"""Results of commands in folders: what made them, and how one takes the place of another.

A folder under construction has the name of the result and `.unfinished`, and stands beside it. It
takes the result's name when it is complete, so a reader finds the old result or the new one. Its
record, a JSON file, says from which settings the result was made and lists its files with their
checksums. Files that no record lists belong to somebody else and are never replaced.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from itm.utils.files import check_manifest, manifest, write_text

RECORDS = ("extract.json", "prepare.json")  # in a data folder


def digest(path: str | Path | None) -> str | None:
    """Compute the SHA-256 of a file, or of the names and contents of the files below a folder."""
    if path is None:
        return None
    path = Path(path).expanduser()
    if not path.is_dir():
        return digest_files({"": path})
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return digest_files({file.relative_to(path).as_posix(): file for file in files})


def digest_files(files: Mapping[str, Path]) -> str:
    """Compute the SHA-256 of files with their names, in the order given."""
    total = sha256()
    for name, file in files.items():
        if name:
            total.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            while piece := content.read(2**20):
                total.update(piece)
    return total.hexdigest()


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """Read the record of a folder; None without one.

    Raises:
        ValueError: a file of this name that is not a record.
    """
    path = folder / name
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} is not a record of itm: expected a JSON object")
    return record


def other_settings(record: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Name the settings that differ from those of a record; one that it lacks does not count."""
    before = record.get("settings") or {}
    return [key for key in settings if key in before and before[key] != settings[key]]


def is_complete(folder: Path, record: str, settings: Mapping[str, Any]) -> bool:
    """Tell whether a folder holds the undamaged result of these settings.

    Raises:
        ValueError: it does, but a file is missing or damaged.
    """
    found = read_record(folder, record)
    if found is None or "files" not in found or other_settings(found, settings):
        return False
    check_manifest(folder, found["files"])
    return True


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
        if begun is None or other or not resume:
            _clear(work)
            write_text(work / record, json.dumps({"settings": dict(settings)}))
        try:
            yield work
        except BaseException:
            if not resume:
                shutil.rmtree(work, ignore_errors=True)
            raise
        for litter in work.glob(".*.unfinished"):  # of a kill
            litter.unlink()
        names = sorted(p.relative_to(work).as_posix() for p in work.rglob("*") if p.is_file())
        names.remove(record)
        content = read_record(work, record) or {}
        write_text(work / record, json.dumps({**content, "files": manifest(work, names)}))
        _replace(work, folder)


def check_target(
    folder: Path, record: str, settings: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Check that a result may be written to a folder.

    Raises:
        ValueError: the folder holds files of others or, without `overwrite`, another result.
    """
    old = _replaced(folder)
    if old.exists() and read_record(old, record) is not None:  # the process ended in `_replace`
        old.rename(folder) if not folder.exists() else shutil.rmtree(old)
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
    files = _listed(records)
    foreign = [name for name in content if name not in files]
    if own is None or foreign:
        raise ValueError(
            f"out={folder} holds files that this command did not make, such as "
            f"{', '.join(foreign[:3] or content[:3])}; choose another out=, or move them away"
        )
    if not overwrite:
        other = other_settings(own, settings)
        raise ValueError(
            f"out={folder} was made with {'other ' + ', '.join(other) if other else 'these options'}"
            "; choose another out=, or give overwrite=true to replace the whole folder"
        )
    now = manifest(folder, content)
    changed = [name for name in content if files[name] not in (None, now[name])]
    if changed:
        raise ValueError(
            f"out={folder} holds files that were changed since, such as {', '.join(changed[:3])}; "
            "move them away, or choose another out="
        )


def place_files(
    work: Path, folder: Path, record: str, settings: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Move files into a folder that may hold others, and list them in its record.

    Args:
        work: folder with the new files.
        folder: where they go.
        record: one of `RECORDS`.
        settings: what the files are made of.
        overwrite: replace files that the record lists.

    Raises:
        ValueError: the folder holds another file of that name; then nothing was moved.
    """
    own = read_record(folder, record) or {}
    before: dict[str, Any] = dict(own.get("derived") or {})
    new = manifest(work, sorted(p.name for p in work.iterdir()))
    for name, checksum in new.items():
        found = manifest(folder, [name]).get(name)
        if found in (None, checksum) or (name in before and before[name] is None):
            continue
        if name not in before or before[name]["checksum"] != found:
            raise ValueError(
                f"{folder / name} was not made by this command, or was changed since; it stays as "
                "it is: give out=ANOTHER_FOLDER, or leave it out of write="
            )
        if not overwrite:
            raise ValueError(
                f"{folder / name} was made from other captions or options; give overwrite=true to "
                "replace it, or out=ANOTHER_FOLDER"
            )
    pending = dict.fromkeys(new)
    write_text(folder / record, json.dumps({**own, "derived": {**before, **pending}}))
    for name in new:
        (work / name).replace(folder / name)
    made = {name: {"checksum": new[name], "settings": dict(settings)} for name in new}
    write_text(folder / record, json.dumps({**own, "derived": {**before, **made}}))


def _listed(records: Mapping[str, dict[str, Any] | None]) -> dict[str, str | None]:
    """Name all files of the records of a folder, with their checksums where they are known."""
    files: dict[str, str | None] = dict.fromkeys(n for n, record in records.items() if record)
    for record in filter(None, records.values()):
        files |= record.get("files") or {}
        files |= {n: d and d["checksum"] for n, d in (record.get("derived") or {}).items()}
    return files


def _replaced(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.replaced")


def _replace(work: Path, folder: Path) -> None:
    """Rename a complete folder to its name; one that has the name already makes way before."""
    old = _replaced(folder)
    if folder.exists() and any(folder.iterdir()):
        folder.rename(old)
    elif folder.exists():
        folder.rmdir()
    work.rename(folder)
    if old.exists():
        shutil.rmtree(old)


def _clear(work: Path) -> None:
    for path in work.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


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
