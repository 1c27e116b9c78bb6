"""Files that are the old one or the new one, whole, whenever the process, disk or power ends."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Write a file beside `path` and put it in its place at once, when it is complete and on disk.

    A kill leaves `path` as it was, and beside it an unfinished file that nothing reads and the next
    write of `path` overwrites. An error leaves nothing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut, where the system can do that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """`Path.write_text` by way of `replacing`."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def damage(path: str | Path) -> str | None:
    """What is wrong with a checkpoint file, or None when all its bytes are as they were written."""
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except FileNotFoundError:
        return "it does not exist"
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return f"it is cut off or no checkpoint ({error})"
    return None if broken is None else f"its part {broken} is damaged"


class CheckpointFiles(TorchCheckpointIO):
    """Lightning plugin: checkpoints are written by `replacing`, and checked before they are read.

    Lightning's own way writes to the system's folder for temporary files, often on another disk,
    and moves the file from there, which a kill can cut in two.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OSError: it cannot be written; the previous file is untouched.
        """
        try:
            with replacing(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch adds a RuntimeError to a failed write
            first = error.__context__ if isinstance(error.__context__, OSError) else error
            raise OSError(
                f"cannot write {path}: {first}; the previous checkpoint there, if any, is whole: "
                "make room or the folder writable and continue with resume=RUN_FOLDER"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            ValueError: the file is damaged.
        """
        if what := damage(path):
            raise ValueError(f"cannot read the checkpoint {path}: {what}")
        # Whatever was asked for: torch before 2.6, and later ones with a variable of the
        # environment, unpickle anything unless told not to.
        return super().load_checkpoint(path, map_location, weights_only=True)
