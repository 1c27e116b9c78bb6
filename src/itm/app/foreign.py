"""Refuse folders in which Hydra or a run would replace the files of another program."""

from __future__ import annotations

from pathlib import Path

from itm.runs.outputs import MANIFEST
from itm.runs.plain_files import read_yaml
from itm.utils.errors import TakenError

COMMANDS = ("train", "evaluate", "convert", "prepare", "explain", "localise", "report")
TABLES = tuple(f"{x}.{end}" for x in ("summary", "summary_seeds") for end in ("csv", "md", "png"))
RESULTS = (MANIFEST, "results.json", "ranks.npz", "csv/metrics.csv")  # of a run: after run.json


def check_hydra(folder: Path) -> None:
    """Check that the `.hydra` of a folder, which Hydra replaces at once, is not another program's.

    Raises:
        TakenError: another program wrote it.
    """
    record = folder / ".hydra"
    own = any((folder / name).is_file() for name in ("run.json", MANIFEST))
    if own or not record.exists() or (record.is_dir() and not any(record.iterdir())):
        return
    if _is_foreign(record / "hydra.yaml"):
        raise TakenError(
            f"{record} was not written by a command of itm, and would be replaced: give another "
            "folder, or remove it"
        )


def check_sweep(folder: Path) -> None:
    """Check that a folder has no `multirun.yaml` or tables of others, which a sweep would replace.

    Raises:
        TakenError: the folder holds such files.
    """
    record = folder / "multirun.yaml"  # Hydra writes it before the first job
    found = [name for name in (record.name, *TABLES) if (folder / name).exists()]
    if found and _is_foreign(record):
        raise TakenError(
            f"{folder} holds {', '.join(found)}, which no sweep of itm.train wrote: give another "
            "hydra.sweep.dir, or remove them"
        )


def _is_foreign(record: Path) -> bool:
    """Tell whether Hydra's record is missing, or names a program other than our commands.

    A full disk or a kill may have cut off our own.
    """
    if not record.is_file():
        return True
    try:
        return read_yaml(record)["hydra"]["job"]["name"] not in COMMANDS
    except (ValueError, KeyError, TypeError):
        begin = record.read_bytes()[:6]
        return begin not in (b"", b"hydra:")


def check_results(folder: Path) -> None:
    """Check that a folder without a run holds no results, which a run would replace.

    Raises:
        TakenError: the folder holds results without a run.json.
    """
    found = [name for name in RESULTS if (folder / name).exists()]
    if found and not (folder / "run.json").is_file():
        raise TakenError(
            f"{folder} holds {', '.join(found)} but no run.json, so itm.train did not write "
            "them: give another hydra.run.dir, or remove them"
        )
