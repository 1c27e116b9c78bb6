"""Check what the trainer's limits of batches leave of training, validation and test."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from itm.utils.log_files import say

if TYPE_CHECKING:
    from itm.data.layout import Split
    from itm.data.module import RegionDataModule


def epoch_batches(trainer: Any, data: RegionDataModule) -> int:
    """Count the batches that an epoch trains on, in each process."""
    return limited_batches(data, trainer.world_size, trainer.limit_train_batches)


def limited_batches(data: RegionDataModule, processes: int, limit: int | float) -> int:
    """Count the batches that are left of an epoch by a number or share of batches."""
    sampler = data.train_sampler()
    sampler.processes = max(sampler.processes, processes)  # they may start later
    return min(len(sampler), limit) if isinstance(limit, int) else int(len(sampler) * limit)


def check_limits(trainer: Any, data: RegionDataModule, test: bool) -> None:
    """Check that a share of each process's batches is at least one; print what does not run at all.

    Lightning checks it, too, but a validation at the first one, and the test after the training.

    Args:
        trainer: a Lightning trainer.
        data: the data module, set up.
        test: whether the run tests.

    Raises:
        ValueError: a share leaves no batch, or a split is too small for the processes.
    """
    overfits = trainer.overfit_batches > 0  # then Lightning limits both by it
    name = "overfit_batches" if overfits else "limit_train_batches"
    batches = limited_batches(data, trainer.world_size, 1.0)
    check_share(name, trainer.limit_train_batches, batches, "data.batch_size", "training batches")
    for option in ("limit_train_batches", "max_steps", "max_epochs"):
        if getattr(trainer, option) == 0:
            say(f"no training, since trainer.{option}=0: the weights stay as they are")
    name = "overfit_batches" if overfits else "limit_val_batches"
    if trainer.limit_val_batches:
        batches = evaluation_batches(data.val_split, data.eval_batch_size, trainer.world_size)
        size = "data.eval_batch_size"
        check_share(name, trainer.limit_val_batches, batches, size, "validation batches")
    if test:
        check_test_limit(trainer, data)
        if trainer.limit_test_batches == 0:
            say("no test, since trainer.limit_test_batches=0")


def tell_single_pairs(trainer: Any, data: RegionDataModule) -> None:
    """Warn if no batch of the training holds two pairs, which are each other's negatives."""
    sampler = data.train_sampler()
    most = min(sampler.batch_size, len(sampler.caption_image))
    if most == 1 and trainer.world_size == 1 and data.phrases is None:
        say(
            "warning: every training batch has one pair, which has no negatives, so a ranking loss "
            "is 0 and teaches nothing: give a higher data.batch_size or data.fraction"
        )


def check_test_limit(trainer: Any, data: Any) -> None:
    """Check that a share of the test is at least one batch.

    Raises:
        ValueError: no batch is left, or the split is too small for the processes.
    """
    limit = trainer.limit_test_batches
    batches = evaluation_batches(data.test_split, data.eval_batch_size, trainer.world_size)
    size, test = "data.eval_batch_size", "test batches"
    check_share("limit_test_batches", limit, batches, size, test, ", or set test=false")


def check_share(
    name: str, limit: int | float, batches: int, size: str, what: str, otherwise: str = ""
) -> None:
    """Check that a limit is at least one batch if it is a share.

    Args:
        name: option of the trainer.
        limit: number or share of the batches.
        batches: number of batches without a limit.
        size: option that makes more batches when it is lowered.
        what: name of the batches.
        otherwise: what else helps.

    Raises:
        ValueError: no batch is left.
    """
    if isinstance(limit, float) and 0 < limit < 1 and int(batches * limit) == 0:
        raise ValueError(
            f"trainer.{name}={limit} of {batches} batches leaves none: give a number of batches "
            f"(trainer.{name}=1), a larger share, or a lower {size}{otherwise} "
            f"(it is about the {what})"
        )


def evaluation_batches(split: Split, size: int, processes: int = 1) -> int:
    """Count each process's batches of images, or of captions if these are fewer.

    Raises:
        ValueError: there are fewer of them than processes.
    """
    items = min(split.num_images, len(split.captions))
    if items < processes:
        raise ValueError(
            f"split {split.name} has {items} images or captions for {processes} processes, and "
            "each needs one: use fewer processes (trainer.devices, trainer.num_nodes)"
        )
    return math.ceil(math.ceil(items / processes) / size)
