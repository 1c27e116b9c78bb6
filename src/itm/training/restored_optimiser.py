"""Apply the options of a resumed run to the optimisers and schedulers of its checkpoint."""

from __future__ import annotations

import inspect
from typing import Any

from pytorch_lightning import LightningModule, Trainer

from itm.training.lightning_private import count_steps, planned_step
from itm.training.optim import LENGTHS
from itm.training.progress import say

SCHEDULED = ("momentum", "betas")  # OneCycleLR and CyclicLR change them
PLACES = ("last_epoch", "total_steps")  # progress of a scheduler, which stays


def apply_options(trainer: Trainer, matcher: LightningModule) -> None:
    """Give restored optimisers and schedulers the options of this run, and say what changes.

    Lightning restores the options together with the state. A new learning rate scales the current
    rate of its group by new / old, so that the schedule keeps its shape.

    Args:
        trainer: trainer with restored optimisers and schedulers.
        matcher: matcher that makes new ones with the options of this run, for comparison.
    """
    made: Any = matcher.configure_optimizers()
    fresh, schedules = made if isinstance(made, tuple) else ([made], [])
    said: dict[str, None] = {}
    for mine, new in zip(trainer.optimizers, fresh, strict=False):
        for group, wanted in zip(mine.param_groups, new.param_groups, strict=False):
            _set_rate(trainer, group, wanted, said)
            for key in (new.defaults.keys() & group.keys()) - {"lr", *SCHEDULED}:
                if group[key] != wanted[key]:
                    said[f"optimizer.{key} {group[key]} -> {wanted[key]}"] = None
                    group[key] = wanted[key]
    for config, wanted in zip(trainer.lr_scheduler_configs, schedules, strict=False):
        scheduler, other = config.scheduler, wanted["scheduler"]
        for key in inspect.signature(type(other)).parameters.keys() & vars(scheduler).keys():
            old, value = getattr(scheduler, key), getattr(other, key, None)
            if isinstance(value, int | float) and key not in PLACES and old != value:
                said[f"scheduler.{key} {old} -> {value}"] = None
                setattr(scheduler, key, value)
                whole = key in LENGTHS and config.interval == "step" and trainer.max_steps == -1
                if whole and value == count_steps(trainer):
                    # Steps of another size: the schedule goes on at the same share of it.
                    scheduler.last_epoch = planned_step(trainer)
    if said and trainer.is_global_zero:
        say(f"resumed with {', '.join(said)}", trainer)


def _set_rate(
    trainer: Trainer, group: dict[str, Any], wanted: dict[str, Any], said: dict[str, None]
) -> None:
    """Scale the learning rate of a restored group, in its schedule too."""
    if "initial_lr" not in group and trainer.lr_scheduler_configs:
        return  # a plateau schedule keeps no first rate to compare with
    old = float(group.get("initial_lr", group["lr"]))
    new = float(wanted.get("initial_lr", wanted["lr"]))
    if old == new:
        return
    said[f"optimizer.lr {old:g} -> {new:g}"] = None
    group["lr"] = group["lr"] * new / old if old else new
    if "initial_lr" in group:
        group["initial_lr"] = new
    for config in trainer.lr_scheduler_configs:
        scheduler: Any = config.scheduler
        place = next(i for i, g in enumerate(scheduler.optimizer.param_groups) if g is group)
        for rates, rate in ((scheduler.base_lrs, new), (scheduler._last_lr, group["lr"])):
            rates[place] = rate
