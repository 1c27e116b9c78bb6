"""Replace earlier runs (`overwrite=true`): move them aside, and delete them once a run trains."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Sequence
from pathlib import Path

from itm.utils.errors import TakenError

ASIDE = ".replaced"  # in the run folder, so that moving is a rename
DELETED = ".deleted"
FAILURE = "failure.txt"  # as in itm.runs.record, whose imports are slow
WRITTEN = (  # by a run, with its loggers and profilers, in their usual places; see `_restore`
    FAILURE, "run.json", "results.json", "ranks.npz", "train.log", "csv", "checkpoints",
    ".hydra", "tensorboard", "mlflow", "wandb", "fit-profile*.txt", "test-profile*.txt",
)  # fmt: skip

_waiting: list[Path] = []  # run folders whose earlier run is put aside


def put_aside(folders: Sequence[Path]) -> None:
    """Move the files of earlier runs aside until `delete_earlier` or the end of the process.

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
        _waiting.append(folder.resolve())  # first, so that an error half way is undone as well
        for path in [path for pattern in WRITTEN for path in folder.glob(pattern)]:
            path.rename(folder / ASIDE / path.name)


def delete_earlier(folder: Path) -> None:
    """Delete the files moved aside, in all folders that this process knows: the new run trains.

    Args:
        folder: of the new run. A job of sweep=joblib or sweep=slurm is a process of its own that
            knows no other; `settle` deletes the rest when the process of the sweep ends.
    """
    for place in {folder.resolve(), *_waiting}:
        if (place / ASIDE).is_dir():
            _delete(place)
    _waiting.clear()


def settle() -> None:
    """Restore the files moved aside, unless a job of the sweep has trained: then delete them."""
    restored = restores()
    for folder in _waiting:
        if (folder / ASIDE).is_dir():
            _restore(folder) if restored else _delete(folder)
    _waiting.clear()


def restores() -> bool:
    """Tell whether `settle` would restore earlier runs."""
    return bool(_waiting) and all((folder / ASIDE).is_dir() for folder in _waiting)


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
    """Put the earlier run back, in place of what the run wrote that failed before it began.

    failure.txt is the first file aside and the last one back: as long as there are others aside,
    one in the folder is of the new run, even after an error half way.
    """
    aside = sorted((folder / ASIDE).iterdir(), key=lambda path: path.name == FAILURE)
    if aside:
        (folder / FAILURE).unlink(missing_ok=True)
    for path in aside:
        new = folder / path.name
        shutil.rmtree(new) if new.is_dir() else new.unlink(missing_ok=True)
        path.rename(new)
    (folder / ASIDE).rmdir()
