"""Write Lightning's checkpoint files atomically, and read them safely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from itm.utils.archive import damage
from itm.utils.files import replacing
from itm.utils.readers import reading


def check_length(path: str | Path, max_epochs: int | None, max_steps: int = -1) -> None:
    """Check that a run is not continued to an epoch or step that it has passed.

    Args:
        path: checkpoint that training continues from.
        max_epochs: last epoch; None or -1 for no limit.
        max_steps: last step; -1 for no limit.

    Raises:
        ValueError: the checkpoint has more epochs or steps.
    """
    found = _mapped(path)
    progress = found.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {})
    reached = progress.get("current", {}).get("processed", 0)
    steps = found.get("global_step", 0)
    for name, limit, done, unit in (
        ("max_epochs", max_epochs, reached, "epochs"),
        ("trainer.max_steps", max_steps, steps, "steps"),
    ):
        if limit is not None and 0 <= limit < done:
            raise ValueError(
                f"{name}={limit}, but {path} has trained {done} {unit} already: give at least "
                f"{done}, or start another run"
            )


def saved_step(path: str | Path) -> int:
    """Read after how many optimiser steps a checkpoint was written."""
    return int(_mapped(path)["global_step"])


def _mapped(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without its tensors, which stay in the file."""
    with reading(path, "could not be read safely"):
        found: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return found


class CheckpointFiles(TorchCheckpointIO):
    """Write checkpoints by `replacing`, and check them before they are read; a Lightning plugin.

    Lightning itself writes to the system's temporary folder, often on another disk, and moves the
    file from there; a kill during the move leaves half a file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OSError: the file cannot be written; the previous one is unchanged.
        """
        try:
            with replacing(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch adds a RuntimeError to a failed write
            first = error.__context__ if isinstance(error.__context__, OSError) else error
            raise OSError(
                f"cannot write {path}: {first}; the previous checkpoint there, if any, is whole: "
                "free disk space or make the folder writable, and continue with resume=RUN_FOLDER"
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
        # Always: torch before 2.6, and later versions with an environment variable, unpickle
        # anything by default.
        with reading(path, "could not be read safely"):
            return super().load_checkpoint(path, map_location, weights_only=True)
