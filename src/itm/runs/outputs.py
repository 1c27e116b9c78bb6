"""Write the files of one result; never replace foreign files or mix two results.

A folder that a command wrote holds `made.json`: the command, and the checksums of its files. With
`overwrite` such a result is replaced as a whole; nothing else is touched. A single file (a page, a
picture) names the command inside, in the metadata of its format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from itm.utils.errors import TakenError
from itm.utils.folders import replacing_folder
from itm.utils.manifest import check_checksums, read_manifest, write_manifest

MANIFEST = "made.json"


def maker(command: str) -> str:
    """Return the mark in the metadata of a command's file, such as "made by itm.explain"."""
    return f"made by {command}"


def check_file(path: str | Path, command: str, overwrite: bool = False) -> None:
    """Check that a command may write a file, and make the folder of a new one.

    Raises:
        OSError: the folder of the file cannot be made.
        TakenError: the file exists and `overwrite` is false, or another program made it.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"out={path} is a folder; give the name of a file")
    if not path.exists() and not path.is_symlink():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"nothing can be written to out={path}: {error}") from error
        return
    if path.exists() and not path.is_file():
        raise TakenError(f"out={path} is a pipe or device; give the name of a file")
    if not overwrite:
        raise TakenError(f"{path} exists: replace it with overwrite=true, or give another out=")
    if maker(command).encode() not in path.read_bytes():
        raise TakenError(
            f"{path} was not {maker(command)}, so overwrite=true does not replace it: remove it "
            "yourself, or give another out="
        )


def check_folder(
    folder: str | Path, command: str, patterns: Sequence[str], overwrite: bool = False
) -> list[str]:
    """Check that a command may write its result into a folder.

    Args:
        folder: need not exist; may hold other files.
        command: such as "itm.evaluate".
        patterns: names that the files of the command may have, such as "ranks_*.npz".
        overwrite: replace an earlier result of this command.

    Returns:
        The files of the earlier result that would be replaced.

    Raises:
        TakenError: an earlier result is there and `overwrite` is false, the folder holds a run or
            a result of another command, or another file has the name of a file to write.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the name of a folder")
    if (folder / "run.json").is_file():
        raise TakenError(f"{folder} holds a run of itm.train; give {command} another folder")
    earlier: list[str] = []
    record = _read_manifest(folder)
    if record is not None:
        if record["command"] != command:
            raise TakenError(
                f"{folder} holds a result of {record['command']}; give {command} another folder"
            )
        if not overwrite:
            raise TakenError(
                f"{folder} holds a result of {command} already: replace it with overwrite=true, or "
                "give another folder"
            )
        earlier = [name for name in record["files"] if (folder / name).is_file()]
    there = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    foreign = [
        name
        for name in sorted(there)
        if name not in (*earlier, MANIFEST) and any(fnmatch(name, p) for p in patterns)
    ]
    if foreign:
        raise TakenError(
            f"{folder / foreign[0]} exists and is not listed in {MANIFEST}, so {command} does not "
            "replace it: remove it yourself, or give another folder"
        )
    return earlier


@contextmanager
def result_folder(
    folder: str | Path, command: str, patterns: Sequence[str], overwrite: bool = False
) -> Iterator[Path]:
    """Yield a new folder to write into; its files appear in `folder` when the block ends.

    An earlier result of the command is replaced as a whole; after an error it is still there.

    Args:
        folder: folder of the result; created if missing.
        command: such as "itm.evaluate".
        patterns: names that the files may have.
        overwrite: replace an earlier result of this command.

    Raises:
        TakenError: as for `check_folder`.
    """
    earlier = check_folder(folder, command, patterns, overwrite)
    with replacing_folder(folder, MANIFEST, earlier, lambda _: True) as place:
        yield place
        check_folder(folder, command, patterns, overwrite)  # another process may have written
        names = sorted(file.name for file in place.iterdir())
        write_manifest(place / MANIFEST, {"command": command}, names)


def check_files(folder: Path, patterns: Sequence[str]) -> None:
    """Compare some files of a result with the checksums in its manifest, if it has one.

    Raises:
        ValueError: a file is missing or damaged, or the manifest is.
    """
    record = _read_manifest(folder)
    if record is not None:
        files = record["files"]
        check_checksums(
            folder, {n: x for n, x in files.items() if any(fnmatch(n, p) for p in patterns)}
        )


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        facts, files = read_manifest(path)
        if files is None or any(Path(name).name != name for name in files):
            raise ValueError("it must list files of its folder")
        return {"command": str(facts["command"]), "files": files}
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove the folder") from error
