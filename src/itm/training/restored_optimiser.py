"""Apply the options of a resumed run to the optimisers and schedulers of its checkpoint."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch.optim.lr_scheduler import (
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    OneCycleLR,
    ReduceLROnPlateau,
)

from itm.training.lightning_private import count_steps, planned_step
from itm.training.optim import LENGTHS, CosineLR, StepLR
from itm.training.progress import say

SCHEDULED = ("momentum", "betas")  # OneCycleLR and CyclicLR change them
PLACES = ("last_epoch", "total_steps")  # progress of a scheduler, which stays
CYCLE = ("max_lr", "min_lr")  # OneCycleLR keeps them in the groups
KEPT = {list, tuple, Counter, str}  # types of values that stay those of the checkpoint
RATES = ("base_lrs", "max_lrs")  # follow the groups
OWN = ("step_size", "gamma")  # of a group, see StepLR
BY_PLACE = (CosineLR, StepLR, LambdaLR, CyclicLR, OneCycleLR)  # get_lr depends on no earlier rate


def apply_options(trainer: Trainer, matcher: LightningModule) -> None:
    """Give restored optimisers and schedulers the options of this run, and say what changes.

    Lightning restores the options together with the state, and the current rates follow from the
    options of before. If options change, the rates are computed again: they become those of a
    whole run with the new options at this place. A plateau schedule keeps its rates. Some schedules
    cannot compute the rate of a place. Then a new learning rate scales the current rate of its
    group by new / old, so that the schedule keeps its shape.

    Args:
        trainer: trainer with restored optimisers and schedulers.
        matcher: matcher that makes new ones with the options of this run, for comparison.
    """
    made: Any = matcher.configure_optimizers()
    fresh, schedules = made if isinstance(made, tuple) else ([made], [])
    said: dict[str, None] = {}
    scaled = False
    for mine, new in zip(trainer.optimizers, fresh, strict=False):
        for group, wanted in zip(mine.param_groups, new.param_groups, strict=False):
            scaled |= _set_rate(trainer, group, wanted, said)
            for key in (new.defaults.keys() & group.keys()) - {"lr", *SCHEDULED}:
                if group[key] != wanted[key]:
                    said[f"optimizer.{key} {group[key]} -> {wanted[key]}"] = None
                    group[key] = wanted[key]
    for config, wanted in zip(trainer.lr_scheduler_configs, schedules, strict=False):
        changes = _set_values(trainer, config, wanted["scheduler"])
        changes |= _set_own_values(trainer, config, wanted["scheduler"])
        follows = not (changes or scaled) or _set_planned_rates(config.scheduler)
        late = "" if follows else f" (after the next {config.interval})"
        said |= {f"{text}{late}": None for text in changes}
    if said and trainer.is_global_zero:
        say(f"resumed with {', '.join(said)}", trainer)


def _set_rate(
    trainer: Trainer, group: dict[str, Any], wanted: dict[str, Any], said: dict[str, None]
) -> bool:
    """Scale the learning rate of a restored group, in its schedule too; tell whether it changes.

    Raises:
        ValueError: the schedule is one of several.
    """
    if "initial_lr" not in group and trainer.lr_scheduler_configs:
        return False  # a plateau schedule keeps no first rate to compare with
    old = float(group.get("initial_lr", group["lr"]))
    new = float(wanted.get("initial_lr", wanted["lr"]))
    if old == new:
        return False
    said[f"optimizer.lr {old:g} -> {new:g}"] = None
    group["lr"] = group["lr"] * new / old if old else new
    if "initial_lr" in group:
        group["initial_lr"] = new
    group.update({key: wanted[key] for key in CYCLE if key in group and key in wanted})
    for config in trainer.lr_scheduler_configs:
        scheduler: Any = config.scheduler
        if not hasattr(scheduler, "base_lrs"):
            raise ValueError(
                f"a resumed run cannot change optimizer.lr {old:g} -> {new:g} under "
                f"{type(scheduler).__name__}, whose schedules keep their own rates: resume it with "
                f"optimizer.lr={old:g}, or start another run"
            )
        place = next(i for i, g in enumerate(scheduler.optimizer.param_groups) if g is group)
        for rates, rate in ((scheduler.base_lrs, new), (scheduler._last_lr, group["lr"])):
            rates[place] = rate
    return True


def _set_values(trainer: Trainer, config: Any, other: Any) -> dict[str, None]:
    """Set the numbers of a restored schedule; return what to say."""
    said: dict[str, None] = {}
    scheduler = config.scheduler
    _check_kept(scheduler, other)
    for key in inspect.signature(type(other)).parameters.keys() & vars(scheduler).keys():
        old, value = getattr(scheduler, key), getattr(other, key, None)
        if isinstance(value, int | float) and key not in PLACES and old != value:
            said[f"scheduler.{key} {old} -> {value}"] = None
            setattr(scheduler, key, value)
            whole = key in LENGTHS and config.interval == "step" and trainer.max_steps == -1
            if whole and value == count_steps(trainer):
                # Steps of another size: the schedule goes on at the same share of it.
                scheduler.last_epoch = planned_step(trainer)
    return said


def _check_kept(scheduler: Any, other: Any, inner: bool = False) -> None:
    """Check that values which a restored schedule keeps are those of the options.

    Args:
        scheduler: the restored schedule.
        other: one with the options of this run.
        inner: it is one of several, of which numbers are kept, too.

    Raises:
        ValueError: a list or a word differs, or a value of a schedule within this one.
    """
    for key in inspect.signature(type(other)).parameters:
        name = next((x for x in (key, f"_{key}", f"{key}s") if x in vars(other)), key)
        old, new = vars(scheduler).get(name), vars(other).get(name)
        if key == "schedulers":  # of SequentialLR and ChainedScheduler
            for mine, its in zip(_items(old), _items(new), strict=False):
                _check_kept(mine, its, inner=True)
        kept = KEPT | {int, float} if inner and key not in PLACES else KEPT
        plain = type(new) in kept and all(isinstance(x, int | float | str) for x in _items(new))
        if plain and name not in RATES and old != new:
            was, now = (sorted(x.elements()) if isinstance(x, Counter) else x for x in (old, new))
            raise ValueError(
                f"a resumed run cannot change scheduler.{key} {was} -> {now} of "
                f"{type(other).__name__}: resume it with {was}, or start another run"
            )


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | Counter) else [value]


def _set_own_values(trainer: Trainer, config: Any, other: Any) -> dict[str, None]:
    """Set the step sizes and factors that groups bring themselves; return what to say."""
    said: dict[str, None] = {}
    if not isinstance(other, StepLR):
        return said
    groups = zip(config.scheduler.optimizer.param_groups, other.optimizer.param_groups, strict=True)
    for group, wanted in groups:
        for key in OWN:
            if key in wanted and group.get(key) != wanted[key]:
                name = f"scheduler.{key} of {wanted.get('name')}"
                said[f"{name} {group.get(key)} -> {wanted[key]}"] = None
                group[key] = wanted[key]
                if key == "step_size" and config.interval == "step":
                    # An epoch has another number of steps: the group goes on at its share of one.
                    group["ahead"] = planned_step(trainer) - config.scheduler.last_epoch
    return said


def _set_planned_rates(scheduler: Any) -> bool:
    """Set the rates that a schedule with these values has at its place; False if it cannot tell.

    Most schedules of torch compute each rate from the one before, and the closed form beside it.
    Those of other libraries may mean something else by it.
    """
    kind = type(scheduler)
    if isinstance(scheduler, ReduceLROnPlateau):
        return True
    if kind is CyclicLR:  # makes its function of gamma again
        scheduler.load_state_dict(scheduler.state_dict())
    if kind is CosineAnnealingWarmRestarts:
        scheduler.T_i = scheduler.T_0
        scheduler.step(scheduler.last_epoch)  # finds the restart, too
        return True
    closed = getattr(scheduler, "_get_closed_form_lr", None)
    if kind not in BY_PLACE and (closed is None or not kind.__module__.startswith("torch.")):
        return False
    with warnings.catch_warnings():
        # Torch advises to take the rates of the last step, but those are the old ones.
        warnings.filterwarnings("ignore", "To get the last learning rate", UserWarning)
        rates = scheduler.get_lr() if closed is None else closed()
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = list(rates)
    return True
