"""Write a data folder as a whole, in the place of an earlier one; put single files into one.

The manifest of a data folder, its record, holds the settings that the folder was made with, and
under "derived" the files that were added later. Files that no record lists are never replaced.
A folder under construction has the name of the result and `.unfinished`, and stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from itm.utils.errors import TakenError
from itm.utils.files import move
from itm.utils.folders import beside, discard, locked, mark, put
from itm.utils.manifest import KEY, checksum, checksums, read_manifest, write_manifest

RECORDS = ("extract.json", "prepare.json")


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
    unless `resume` can go on with something in it.

    Args:
        folder: the result.
        record: one of `RECORDS`; the block may add facts to it.
        settings: what the result is made of.
        overwrite: replace a result of other settings.
        resume: go on with an unfinished folder of the same settings.

    Raises:
        TakenError: the folder holds files of others or, without `overwrite`, another result.
        InUseError: another process writes it.
    """
    folder = Path(folder).expanduser().resolve()
    check_target(folder, record, settings, overwrite)
    with locked(folder):
        old = check_target(folder, record, settings, overwrite)
        work = _work(folder)
        _prepare(work, folder, record, settings, overwrite, resume)
        try:
            yield work
        except BaseException:
            if not resume or _is_empty(work, record):
                discard(work, folder)
            raise
        for litter in work.glob(".*.unfinished"):  # of a kill
            litter.unlink()
        facts = read_record(work, record) or {}
        facts.pop(KEY, None)
        write_manifest(work / record, facts, [name for name in _files(work) if name != record])
        put(work, folder, record, old)
        discard(work, folder)


def check_target(
    folder: Path, record: str, settings: Mapping[str, Any], overwrite: bool = False
) -> list[str]:
    """Check that a result may be written to a folder.

    Returns:
        The files of the earlier result.

    Raises:
        TakenError: the folder holds files of others or, without `overwrite`, another result.
    """
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise ValueError(f"out={folder} is a file; expected a folder, which may be new")
    content = _files(folder)
    if not content:
        return []
    # Whether a kill interrupted the moving of files into the folder, see `itm.utils.folders.put`.
    cut = mark(record) in content and record not in content
    kept = mark(record) if cut else record
    records = {name: read_record(folder, name) for name in {*RECORDS, kept}}
    own = records[kept]
    if own is not None and "splits" in own and KEY not in own:
        raise TakenError(
            f"out={folder} was written by an earlier version, which kept no list of its files; use "
            "it as it is, delete it, or choose another out="
        )
    listed = {mark(record): None, **_listed(records)}
    foreign = [name for name in content if name not in listed]
    if own is None or foreign:
        raise TakenError(
            f"out={folder} holds files that this command did not make, such as "
            f"{', '.join(foreign[:3] or content[:3])}; choose another out=, or move them away"
        )
    if cut:
        return content
    if not overwrite:
        other = ", ".join(other_settings(own, settings))
        made = f"other {other}" if other else "these options"
        raise TakenError(
            f"out={folder} was made with {made}; "
            "choose another out=, or give overwrite=true to replace the whole folder"
        )
    changed = [n for n in content if listed[n] not in (None, checksum(folder / n))]
    if changed:
        raise TakenError(
            f"out={folder} holds files that were changed since, such as {', '.join(changed[:3])}; "
            "move them away, or choose another out="
        )
    return content


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """Read the record of a folder: its facts and, under "files", checksums; None without one.

    Raises:
        ValueError: the file is damaged or not a record.
    """
    if not (folder / name).is_file():
        return None
    facts, files = read_manifest(folder / name)
    return facts if files is None else {**facts, KEY: files}


def write_record(folder: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Write the record of a folder that `building` completes later."""
    write_manifest(folder / name, facts, ())


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
    if found is None or not found.get(KEY) or other_settings(found, settings):
        return False
    for name, expected in found[KEY].items():
        if checksums(folder, [name]).get(name) != expected:
            raise ValueError(
                f"{folder / name} is missing, damaged or was edited: its checksum differs from "
                f"that in {record}; restore it, or give overwrite=true to write the folder again"
            )
    return True


def place_files(
    work: Path, folder: Path, record: str, settings: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Move files into a folder that may hold others, and list them in its record.

    Args:
        work: folder with the new files.
        folder: where they go; the caller holds its lock.
        record: one of `RECORDS`.
        settings: what the files are made of.
        overwrite: replace files that the record lists.

    Raises:
        TakenError: the folder holds another file of that name; then nothing was moved.
    """
    facts = read_record(folder, record) or {}
    names = list(facts.pop(KEY, None) or ())
    before: dict[str, Any] = dict(facts.get("derived") or {})
    new = checksums(work, sorted(p.name for p in work.iterdir()))
    for name, expected in new.items():
        found = checksums(folder, [name]).get(name)
        if found in (None, expected) or (name in before and before[name] is None):
            continue
        if name not in before or before[name]["checksum"] != found:
            raise TakenError(
                f"{folder / name} was not made by this command, or was changed since; it stays "
                "as it is: give out=ANOTHER_FOLDER, or leave it out of write="
            )
        if not overwrite:
            raise TakenError(
                f"{folder / name} was made from other captions or options; give overwrite=true "
                "to replace it, or out=ANOTHER_FOLDER"
            )
    pending = dict.fromkeys(new)
    write_manifest(folder / record, {**facts, "derived": {**before, **pending}}, names)
    for name in new:
        move(work / name, folder / name)
    made = {name: {"checksum": new[name], "settings": dict(settings)} for name in new}
    write_manifest(folder / record, {**facts, "derived": {**before, **made}}, names)


def _work(folder: Path) -> Path:
    place = beside(folder)
    return place.with_name(f"{place.name}.unfinished")


def _prepare(
    work: Path,
    folder: Path,
    record: str,
    settings: Mapping[str, Any],
    overwrite: bool,
    resume: bool,
) -> None:
    """Make the unfinished folder, or keep what it holds if that can be continued."""
    if work.exists() and not work.is_dir():
        raise TakenError(f"{work} is a file; move it away, or choose another out=")
    work.mkdir(exist_ok=True)
    begun = read_record(work, record)
    if begun is None and any(not path.name.startswith(".") for path in work.iterdir()):
        raise TakenError(f"{work} holds files of others; move them, or choose another out=")
    other = [] if begun is None else other_settings(begun, settings)
    if resume and other and not overwrite and not _is_empty(work, record):
        raise TakenError(
            f"{work} was begun with other {', '.join(other)}; choose another out=, delete it, "
            "or give overwrite=true to begin again"
        )
    if begun is None or other or not resume:
        discard(work, folder)
        work.mkdir()
        write_record(work, record, {"settings": dict(settings)})


def _is_empty(work: Path, record: str) -> bool:
    """Tell whether an unfinished folder holds nothing but its record."""
    return set(_files(work)) <= {record}


def _files(folder: Path) -> list[str]:
    """List the files and links below a folder, without those of an unfinished folder in it."""
    inside = folder / f"{folder.name}.unfinished"
    found = (path for path in folder.rglob("*") if not path.is_relative_to(inside))
    files = (path for path in found if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _listed(records: Mapping[str, dict[str, Any] | None]) -> dict[str, str | None]:
    """Name all files of the records of a folder, with their checksums where they are known."""
    files: dict[str, str | None] = dict.fromkeys(n for n, record in records.items() if record)
    for record in filter(None, records.values()):
        files |= record.get(KEY) or {}
        files |= {n: d and d["checksum"] for n, d in (record.get("derived") or {}).items()}
    return files
