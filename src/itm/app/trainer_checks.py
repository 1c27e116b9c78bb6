"""Check the trainer of a run, with its callbacks, before training."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from itm.utils.log_files import say

# Modules whose objects log only metrics that `known_metrics` lists.
OURS = ("itm.", "pytorch_lightning.")
LOSS = "train/loss"
USUAL = "val/rsum, val/i2t_r1, val/t2i_r1 and train/loss"  # of `known_metrics`


def known_metrics() -> list[str]:
    """List the metrics that a matcher logs in a validation, and the loss."""
    import numpy as np  # late, like all imports here, so that reading options does not wait

    from itm.metrics.retrieval import evaluate

    names = evaluate(np.eye(2, dtype=np.float32), np.arange(2))
    return [f"val/{name}" for name in names] + ["train/loss"]


def check_monitors(trainer: Any, matcher: Any) -> None:
    """Check that callbacks and schedule monitor a metric that is logged.

    A matcher or callback of the user may log further metrics; then any name is accepted.

    Raises:
        ValueError: a monitored metric is unknown.
    """
    kinds = [type(matcher), *map(type, trainer.callbacks)]
    if not all(f"{kind.__module__}.".startswith(OURS) for kind in kinds):
        return
    known = known_metrics()
    monitors = [(type(c).__name__, getattr(c, "monitor", None)) for c in trainer.callbacks]
    monitors.append(("the scheduler", getattr(matcher.scheduler, "monitor", None)))
    for owner, name in monitors:
        if name is None or name in known or name.startswith(("train/", "lr-")):
            continue
        near = get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"usual ones are {USUAL}"
        raise ValueError(f"monitor={name} of {owner}: no such metric; {hint}")


REFUSED = {  # callbacks of Lightning, and why
    "BatchSizeFinder": "tries batch sizes on one loader, but a retrieval test reads images and "
    "captions from two: leave it out, and set data.batch_size and data.eval_batch_size",
    "LearningRateFinder": "would set a rate that run.json does not record, and train the first "
    "epoch with the last rate of its search: find the rate in Python with "
    "Tuner(trainer).lr_find(matcher, datamodule=matcher.data), and give it as lr=RATE",
    "StochasticWeightAveraging": "puts the averaged weights in place after the last validation, so "
    "that neither best.ckpt nor the test has them: choose callbacks=ema",
}


def check_callbacks(trainer: Any, matcher: Any) -> None:
    """Check that callbacks and a plateau schedule can do their work in this training.

    Raises:
        ValueError: a callback takes a worse value for a better one, waits for a validation that
            never comes, or is one of `REFUSED`.
    """
    from pytorch_lightning.callbacks import EarlyStopping, GradientAccumulationScheduler
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    from itm.training.monitors import check_monitor

    for callback in trainer.callbacks:
        name = type(callback).__name__
        for kind in type(callback).__mro__:  # of Lightning or derived from it
            if kind.__name__ in REFUSED:
                raise ValueError(f"{name} {REFUSED[kind.__name__]}")
        if isinstance(callback, EarlyStopping) and callback.patience < 0:
            raise ValueError(f"{name}: patience must be at least 0, got {callback.patience}")
        check_monitor(callback)
    _check_one_batch(trainer)
    made = getattr(matcher.scheduler, "make", None)
    if getattr(matcher.scheduler, "counts_steps", False):
        for callback in trainer.callbacks:
            if isinstance(callback, GradientAccumulationScheduler):
                raise ValueError(
                    "GradientAccumulationScheduler changes the number of steps, so the length of "
                    "the schedule is unknown: set it (such as scheduler.total=STEPS)"
                )
    waiting = [
        (type(c).__name__, c.monitor) for c in trainer.callbacks if isinstance(c, EarlyStopping)
    ]
    if getattr(made, "func", made) is ReduceLROnPlateau:
        waiting.append(("the scheduler", matcher.scheduler.monitor))
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if trainer.limit_val_batches == 0:
        why = "trainer.limit_val_batches=0"
    elif every is not None and epochs not in (None, -1) and 0 < epochs < every:
        why = f"trainer.check_val_every_n_epoch={every} is more than max_epochs={epochs}"
    else:
        return
    for owner, monitor in waiting:
        if str(monitor).startswith("val/"):
            raise ValueError(f"{owner} waits for {monitor}, but {why}, so no validation runs")
    say(
        f"no validation, since {why}: there will be no best checkpoint; last.ckpt keeps the "
        "weights of the last step, which a test uses"
    )


def _check_one_batch(trainer: Any) -> None:
    """Check that nothing chooses an epoch by the loss of a single batch.

    `train/loss` is the mean over the epoch at its end, and the loss of one batch before.
    """
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

    for callback in trainer.callbacks:
        watches = isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor == LOSS
        if not watches or trainer.limit_val_batches == 0:
            continue
        if trainer.val_check_interval != 1.0 or trainer.check_val_every_n_epoch != 1:
            raise ValueError(
                f"{type(callback).__name__} would read {LOSS} at each validation, where it is the "
                "loss of one batch: leave trainer.val_check_interval and "
                "trainer.check_val_every_n_epoch at 1, or monitor a metric of the validation"
            )


def check_checkpoints(trainer: Any, out: Path) -> None:
    """Check that a run keeps its checkpoints where the other commands look for them.

    Args:
        trainer: Lightning's.
        out: folder of the run.

    Raises:
        ValueError: best.ckpt or last.ckpt would have another name or place, best.ckpt would not
            hold the best epoch, or nothing would write it.
    """
    from pytorch_lightning.callbacks import ModelCheckpoint

    from itm.training.lightning_private import saves_between_validations
    from itm.training.resume import LastCheckpoint

    folder = (out / "checkpoints").resolve()
    more = (
        "; to keep every epoch as well, add +callbacks.all.dirpath=FOLDER "
        "+callbacks.all.save_top_k=-1 "
        "+callbacks.all._target_=pytorch_lightning.callbacks.ModelCheckpoint"
    )
    keeper: Any = trainer.checkpoint_callback
    if keeper is None:
        raise ValueError(
            "trainer.enable_checkpointing=false leaves no best.ckpt to test and nothing to resume: "
            "leave it out (callbacks.checkpoint.save_top_k=0 writes no best epoch)"
        )
    if not isinstance(keeper, ModelCheckpoint):
        raise ValueError("callbacks.checkpoint, which writes best.ckpt, is missing: leave it in")
    if trainer.fast_dev_run:
        return
    if keeper.monitor is None:
        raise ValueError("callbacks.checkpoint.monitor=null names no metric for the best epoch")
    if keeper.save_top_k not in (0, 1):
        raise ValueError(
            f"callbacks.checkpoint.save_top_k={keeper.save_top_k} would write several epochs to "
            f"best.ckpt, so that the last one stays: it must be 1, or 0 for none{more}"
        )
    if saves_between_validations(keeper):
        raise ValueError(
            "callbacks.checkpoint.every_n_train_steps and train_time_interval would write weights "
            "that were not validated to best.ckpt, with the score of an earlier validation: leave "
            "them out (trainer.val_check_interval validates more often)"
        )
    if keeper.filename != "best" or Path(keeper.dirpath or "").resolve() != folder:
        raise ValueError(
            f"callbacks.checkpoint would write {keeper.dirpath}/{keeper.filename}.ckpt, but other "
            f"commands read {folder}/best.ckpt: leave filename and dirpath as they are{more}"
        )
    for callback in trainer.callbacks:
        if isinstance(callback, LastCheckpoint) and callback.path.parent.resolve() != folder:
            raise ValueError(
                f"callbacks.last.dirpath={callback.path.parent}: resume= reads {folder}/last.ckpt; "
                "to write checkpoints to another disk, set hydra.run.dir"
            )


def check_device(accelerator: str) -> None:
    """Check that a GPU is there if the options ask for one.

    Raises:
        ValueError: there is none.
    """
    import torch

    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        mps = torch.backends.mps.is_available()
        if accelerator == "cuda" or not mps:
            raise ValueError(
                f"trainer.accelerator={accelerator}, but torch sees no GPU: use trainer=cpu or "
                "trainer=auto"
            )
