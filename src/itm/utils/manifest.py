"""Record the checksums of the files in a folder, and hashes of the files they were made from.

A manifest is a JSON file with facts about a result and, under "files", the checksums of its files
and its own.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from itm.utils.files import write_json
from itm.utils.readers import read_json

KEY = "files"  # of the checksums in a manifest
SEAL = "crc32"  # of the checksum in a JSON file that stands alone


def write_manifest(path: Path, facts: Mapping[str, Any], names: Iterable[str]) -> None:
    """Write facts about a result as JSON, with the checksums of its files and of the facts.

    Args:
        path: the manifest; its folder holds the files.
        facts: plain data; must not contain "files".
        names: files that belong to the result; those that do not exist are left out.
    """
    facts = json.loads(json.dumps(facts))  # as it is read back
    files = checksums(path.parent, names)
    files[path.name] = _checksum_of_facts({**facts, KEY: files})
    write_json(path, {**facts, KEY: files}, indent=1)


def read_manifest(path: Path) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Read what `write_manifest` wrote; compare its own checksum.

    Returns:
        The facts, and the checksums for `check_checksums`: None for manifests of versions that did
        not write any.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged.
    """
    facts = read_json(path)
    files = facts.pop(KEY, None)
    if files is None:
        return facts, None
    if not isinstance(files, dict):
        raise ValueError(f"{path}: expected checksums by name, got a {type(files).__name__}")
    own = files.pop(path.name, None)  # early versions did not write it
    if own is not None and own != _checksum_of_facts({**facts, KEY: files}):
        raise ValueError(
            f"{path} is damaged or was edited: its checksum differs; restore it or write the "
            f"folder again (after an edit on purpose, remove {path.name!r} from its {KEY!r})"
        )
    return facts, files


def check_checksums(folder: Path, files: Mapping[str, str] | None) -> None:
    """Compare files with the checksums of a manifest.

    Args:
        folder: holds the files.
        files: checksums by name; None = nothing to compare.

    Raises:
        ValueError: a file is missing, damaged, or of another result.
    """
    for name, expected in (files or {}).items():
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise ValueError(f"{folder}: its manifest names {name}, which is outside of the folder")
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing: copy the whole folder or write it again")
        if checksum(folder / name) != expected:
            raise ValueError(
                f"{folder / name} is damaged or was written by another command than the rest of "
                "its folder: its checksum differs; write the folder again"
            )


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Compute the checksums of files in a folder; names that do not exist are left out."""
    return {name: checksum(folder / name) for name in names if (folder / name).is_file()}


def checksum(path: Path) -> str:
    """Compute the CRC-32 of a file. It notices every flipped bit, but no deliberate change."""
    found = 0
    with path.open("rb") as file:
        while piece := file.read(2**20):
            found = zlib.crc32(piece, found)
    return f"{found:08x}"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Add a checksum to the content of a JSON file that no manifest lists."""
    content = json.loads(json.dumps(content))  # as it is read back
    return {**content, SEAL: _checksum_of_facts(content)}


def unsealed(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Take the checksum of `sealed` off; published files, for example, have none.

    Raises:
        ValueError: the content does not fit its checksum.
    """
    if SEAL not in content:
        return content
    plain = {key: value for key, value in content.items() if key != SEAL}
    if content[SEAL] != _checksum_of_facts(plain):
        raise ValueError(
            f"{path} is damaged or was edited: its checksum differs; restore it, write it again, "
            f"or remove {SEAL!r} from it after an edit on purpose"
        )
    return plain


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
    total = hashlib.sha256()
    for name, file in files.items():
        if name:
            total.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            while piece := content.read(2**20):
                total.update(piece)
    return total.hexdigest()


def content_hashes(paths: Iterable[str | Path]) -> dict[str, str]:
    """Compute the SHA-256 of files by name, to record what a result was made from.

    Files of the same name are recorded with as many folders above as keep them apart.

    Args:
        paths: files; folders, for the files in them; prefixes of several files, such as the path of
            a TensorFlow checkpoint.
    """
    found: dict[Path, None] = {}  # in this order
    for path in (Path(path).absolute() for path in paths):
        near = (file for file in path.parent.glob("*") if file.name.startswith(f"{path.name}."))
        files = [path] if path.is_file() else path.glob("*") if path.is_dir() else near
        found |= dict.fromkeys(file for file in sorted(files) if file.is_file())

    def name(file: Path) -> str:
        for parts in range(1, len(file.parts)):
            if sum(other.parts[-parts:] == file.parts[-parts:] for other in found) == 1:
                return Path(*file.parts[-parts:]).as_posix()
        return file.as_posix()

    return {name(file): digest_files({"": file}) for file in found}


def _checksum_of_facts(facts: Mapping[str, Any]) -> str:
    text = json.dumps(facts, ensure_ascii=False, sort_keys=True)
    return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"
