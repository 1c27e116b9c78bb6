"""Replace earlier runs (`overwrite=true`): move them aside, and delete them once a run trains."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Sequence
from pathlib import Path

from itm.utils.errors import TakenError

ASIDE = ".replaced"  # in the run folder, so that moving is a rename
DELETED = ".deleted"
WRITTEN = (
    "run.json", "results.json", "ranks.npz", "failure.txt", "train.log", "csv", "checkpoints",
    ".hydra",
)  # fmt: skip

_waiting: list[Path] = []  # run folders whose earlier run is put aside


def put_aside(folders: Sequence[Path]) -> None:
    """Move the files of earlier runs aside until `settle` or the end of the process.

    Raises:
        TakenError: a folder has no run.json, so `itm.train` did not write it.
    """
    for folder in folders:
        if not (folder / "run.json").is_file():
            raise TakenError(
                f"{folder} holds checkpoints but no run.json, so overwrite=true does not delete "
                "them: remove them yourself, or give another hydra.run.dir"
            )
    if not _waiting:
        atexit.register(settle)
    for folder in folders:
        (folder / ASIDE).mkdir(exist_ok=True)
        for name in WRITTEN:
            if (folder / name).exists():
                (folder / name).rename(folder / ASIDE / name)
        _waiting.append(folder.resolve())


def settle(trains: bool = False) -> None:
    """Delete the files moved aside if the new run trains, else restore them."""
    for folder in _waiting:
        if (folder / ASIDE).is_dir():
            _delete(folder) if trains else _restore(folder)
    _waiting.clear()


def recover(folder: Path) -> None:
    """Finish in a run folder what a killed process left undone."""
    shutil.rmtree(folder / DELETED, ignore_errors=True)
    if (folder / ASIDE).is_dir() and folder.resolve() not in _waiting:
        _restore(folder)


def _delete(folder: Path) -> None:
    """Delete the earlier run; if this is interrupted, nothing restores a part of it."""
    shutil.rmtree(folder / DELETED, ignore_errors=True)
    (folder / ASIDE).rename(folder / DELETED)
    shutil.rmtree(folder / DELETED, ignore_errors=True)


def _restore(folder: Path) -> None:
    for path in list((folder / ASIDE).iterdir()):
        new = folder / path.name  # from the run that failed before it began
        shutil.rmtree(new) if new.is_dir() else new.unlink(missing_ok=True)
        path.rename(new)
    (folder / ASIDE).rmdir()
