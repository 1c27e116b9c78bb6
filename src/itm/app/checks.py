"""Check before training what would otherwise fail during or after it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itm.utils.checks import check_sizes

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from itm.data.layout import Split

# Modules whose objects log only metrics that `known_metrics` lists.
OURS = ("itm.", "pytorch_lightning.")
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
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    from itm.training.optim import check_mode
    from itm.utils.distributed import say

    for callback in trainer.callbacks:
        name = type(callback).__name__
        for kind in type(callback).__mro__:  # of Lightning or derived from it
            if kind.__name__ in REFUSED:
                raise ValueError(f"{name} {REFUSED[kind.__name__]}")
        if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None:
            check_mode(f"{name}: mode", callback.mode, callback.monitor)
    made = getattr(matcher.scheduler, "make", None)
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

    from itm.training.resume import LastCheckpoint

    folder = (out / "checkpoints").resolve()
    more = (
        "; to keep every epoch as well, add +callbacks.all.dirpath=FOLDER "
        "+callbacks.all.save_top_k=-1 "
        "+callbacks.all._target_=pytorch_lightning.callbacks.ModelCheckpoint"
    )
    keeper: Any = trainer.checkpoint_callback
    if trainer.fast_dev_run or keeper is None:
        return
    if not isinstance(keeper, ModelCheckpoint):
        raise ValueError("callbacks.checkpoint, which writes best.ckpt, is missing: leave it in")
    if keeper.monitor is None:
        raise ValueError("callbacks.checkpoint.monitor=null names no metric for the best epoch")
    if keeper.save_top_k not in (0, 1):
        raise ValueError(
            f"callbacks.checkpoint.save_top_k={keeper.save_top_k} would write several epochs to "
            f"best.ckpt, so that the last one stays: it must be 1, or 0 for none{more}"
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


def tell_unused(cfg: DictConfig, typed: Sequence[str]) -> None:
    """Report that data.protocol has no effect if data.limit cuts the test split."""
    from itm.utils.distributed import say  # late: loads torch

    names = {option.lstrip("+").partition("=")[0] for option in typed}
    limit, protocol = cfg.data.get("limit"), cfg.data.get("protocol")
    if "data.protocol" in names and limit is not None and protocol != "full":
        say(
            f"data.protocol={protocol} has no effect: data.limit={limit} cuts the test split, "
            "which is scored by protocol full"
        )


def check_ranges(cfg: DictConfig) -> None:
    """Check numbers whose owners would complain late, or without the name of the option.

    Raises:
        ValueError: a number is out of its range.
    """
    trainer = cfg.trainer
    for name, value, least in (
        ("seed", cfg.seed, 0),
        ("chunk_size", cfg.chunk_size, 1),
        ("data.workers", cfg.data.get("workers"), 0),
        ("gradient_clip_val", trainer.get("gradient_clip_val"), 0),
        ("trainer.accumulate_grad_batches", trainer.get("accumulate_grad_batches"), 1),
        ("trainer.log_every_n_steps", trainer.get("log_every_n_steps"), 1),
        ("trainer.check_val_every_n_epoch", trainer.get("check_val_every_n_epoch"), 1),
        ("trainer.min_epochs", trainer.get("min_epochs"), 0),
        ("trainer.min_steps", trainer.get("min_steps"), 0),
    ):
        if value is not None and not isinstance(value, int | float):
            hint = "; to change it during training, add the callback GradientAccumulationScheduler"
            raise ValueError(
                f"{name}={value} must be a number"
                + (hint if name == "trainer.accumulate_grad_batches" else "")
            )
        if value is not None and not value >= least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if cfg.seed is not None and cfg.seed >= 2**32:
        raise ValueError(f"seed={cfg.seed} must be below 2**32")
    _check_epochs(trainer)
    _check_interval(trainer.get("val_check_interval"))
    check_sizes(_numbers(cfg.model), "model.")
    check_sizes(_numbers(cfg.loss), "loss.")


def _check_epochs(trainer: DictConfig) -> None:
    epochs = trainer.get("max_epochs")
    if epochs is not None and epochs < -1:
        raise ValueError(f"max_epochs={epochs} must be at least 0, or -1 for no limit")
    time = trainer.get("max_time")
    if isinstance(time, int | float):
        raise ValueError(f"trainer.max_time={time} must be a time, DD:HH:MM:SS")
    steps, fast = (trainer.get(key) for key in ("max_steps", "fast_dev_run"))
    if epochs is None and steps in (None, -1) and time is None and not fast:
        raise ValueError(
            "max_epochs=null needs trainer.max_steps=N or trainer.max_time=DD:HH:MM:SS, because "
            "Lightning would stop after 1000 epochs: give max_epochs=N, or -1 for no limit"
        )


def _check_interval(interval: Any) -> None:
    if isinstance(interval, int | float) and not interval > 0:
        raise ValueError(
            f"trainer.val_check_interval={interval} must be above 0: a number of batches, or a "
            "share of the epoch"
        )


def _numbers(node: Any) -> dict[str, Any]:
    """List the options of a group, without those that refer to others, such as ${size}."""
    from omegaconf import OmegaConf  # late, as above

    plain = OmegaConf.to_container(node) if OmegaConf.is_config(node) else {}
    assert isinstance(plain, dict)
    return {str(k): x for k, x in plain.items() if not OmegaConf.is_interpolation(node, str(k))}


def check_protocol(split: Split) -> None:
    """Check that a split has the size that its protocol is defined on.

    Raises:
        ValueError: it has another size.
    """
    from itm.metrics.protocols import check_size

    try:
        check_size(split.protocol, split.num_images, len(split.captions))
    except ValueError as error:
        raise ValueError(
            f"split {split.name} of {split.folder}: {error} (data.protocol=full, data.test=SPLIT, "
            "or test=false)"
        ) from error


def check_disk(folder: Path, matcher: Any) -> None:
    """Check that the disk has room for the checkpoints of a new run.

    best.ckpt, last.ckpt and the file being written hold the weights and, at most, the two
    moments of Adam. A resumed run replaces existing files.

    Raises:
        ValueError: less space is free.
    """
    if (folder / "checkpoints" / "last.ckpt").is_file():
        return
    size = sum(
        p.numel() * p.element_size() * (3 if p.requires_grad else 1) for p in matcher.parameters()
    )
    free = shutil.disk_usage(folder).free
    if free < 3 * size:
        raise ValueError(
            f"{folder}: {free / 2**20:,.0f} MiB are free on this disk, but three checkpoints of "
            f"{size / 2**20:,.0f} MiB need {3 * size / 2**20:,.0f} MiB: make room, or set "
            "hydra.run.dir to another disk"
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
