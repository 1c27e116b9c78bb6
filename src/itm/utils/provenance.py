"""Record in a data folder which command made its files, from what, and their checksums.

A record is a JSON file with the settings of a result and the SHA-256 of its files, or of single
files that were added. Files that no record lists belong to somebody else and are never replaced.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from itm.utils.files import write_text

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


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Compute the SHA-256 of files in a folder by name; names without a file are left out."""
    return {name: digest_files({"": folder / name}) for name in names if (folder / name).is_file()}


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
    for name, checksum in found["files"].items():
        if checksums(folder, [name]).get(name) != checksum:
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
        folder: where they go.
        record: one of `RECORDS`.
        settings: what the files are made of.
        overwrite: replace files that the record lists.

    Raises:
        ValueError: the folder holds another file of that name; then nothing was moved.
    """
    own = read_record(folder, record) or {}
    before: dict[str, Any] = dict(own.get("derived") or {})
    new = checksums(work, sorted(p.name for p in work.iterdir()))
    for name, checksum in new.items():
        found = checksums(folder, [name]).get(name)
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


def listed(records: Mapping[str, dict[str, Any] | None]) -> dict[str, str | None]:
    """Name all files of the records of a folder, with their checksums where they are known."""
    files: dict[str, str | None] = dict.fromkeys(n for n, record in records.items() if record)
    for record in filter(None, records.values()):
        files |= record.get("files") or {}
        files |= {n: d and d["checksum"] for n, d in (record.get("derived") or {}).items()}
    return files
