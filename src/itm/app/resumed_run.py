"""Read where a resumed run stands, and what its options change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl

from itm.app.arguments import config_dir
from itm.app.config import output_folder
from itm.app.resume_changes import allowed_changes, changes_of_training
from itm.app.resume_options import read_recorded, recorded_values
from itm.app.sweep_options import options_of_job
from itm.runs.plain_files import read_record, run_of
from itm.training.checkpoint_files import saved_step
from itm.training.progress import say
from itm.utils.errors import TakenError


class Resumed(NamedTuple):
    """Where a resumed run stands.

    Attributes:
        step: optimiser steps in its checkpoint.
        earlier: changes of the training that its record tells of.
        changes: how the training will differ from what it has done so far.
    """

    step: int = 0
    earlier: Sequence[str] = ()
    changes: Sequence[str] = ()


def read_resumed(checkpoint: str | None, typed: Sequence[str]) -> Resumed:
    """Read where the run of a checkpoint stands, and compare its options with those of now.

    Args:
        checkpoint: that the run continues from; None for a new run.
        typed: options of the command line.

    Raises:
        ValueError: the checkpoint is of another folder, whose run had options that a resumed run
            cannot change.
    """
    if checkpoint is None:
        return Resumed()
    step, folder = saved_step(checkpoint), run_of(Path(checkpoint))
    try:
        earlier = {} if folder is None else read_record(folder / "run.json")
    except ValueError:
        earlier = {}  # without its record a run is continued by the name of its checkpoint
    if folder is None or not earlier:
        return Resumed(step)
    now = options_of_job(typed)
    new = changes_of_training(folder, now)
    if folder.resolve() != output_folder().resolve():  # else `itm.app.run_folder` compared them
        _check_other(folder, checkpoint, now)
        if new:
            say(f"warning: resuming with other options than {folder}: {', '.join(new)}")
    return Resumed(step, earlier.get("changes", []), [f"{x} at step {step}" for x in new])


def _check_other(folder: Path, checkpoint: str, now: Sequence[str]) -> None:
    """Check that the run of another folder had the options that a resumed run cannot change."""
    try:
        before, kept = read_recorded(folder, config_dir(now)), recorded_values(folder)
    except ValueError:
        return  # as above
    try:
        allowed_changes(before, now, kept)
    except ValueError as error:
        raise ValueError(f"resume={checkpoint}: {error}") from error


def check_trained(trainer: pl.Trainer, resumed: Resumed) -> None:
    """Check that options which were changed for a resumed run have trained it for some steps.

    Raises:
        TakenError: no step was left; the results of the run stay as they are.
    """
    if resumed.changes and trainer.global_step == resumed.step:
        raise TakenError(
            "no step was left to train, so the results are not of "
            f"{'; '.join(resumed.changes)}: give more epochs (max_epochs=), or start another run"
        )
