"""Implement the optimiser hooks of `Matcher`: parameter groups, learning rates, clipping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn

from itm.losses.base import LossFunction, as_loss
from itm.training.lightning_private import attached_trainer, unscale
from itm.training.optim import BY_MATCHER, Schedule

MakeOptimizer = Callable[..., torch.optim.Optimizer]  # parameter groups -> optimiser
MakeScheduler = Callable[..., Any] | Schedule  # optimiser -> learning-rate scheduler

OPTIMIZER = "functools.partial(torch.optim.Adam, lr=2e-4)"
SCHEDULER = "functools.partial(StepLR, step_size=15)"


class Optimised(Protocol):
    """What the hooks need from a matcher."""

    loss: LossFunction | None
    optimizer: MakeOptimizer | None
    scheduler: MakeScheduler | None
    found_lr: float | None

    def parameter_groups(self) -> list[dict[str, Any]]: ...  # noqa: D102


def configure_optimizers(matcher: Optimised) -> Any:
    """Build the optimiser over `parameter_groups` of matcher and loss, and the scheduler.

    `lr_scale` multiplies the learning rate of a group. Frozen parameters are left out.
    """
    of_loss = [] if matcher.loss is None else as_loss(matcher.loss).parameter_groups()
    known = {id(p) for group in of_loss for p in group["params"]}
    groups = [dict(group) for group in matcher.parameter_groups()]
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in known]
    groups += [dict(group) for group in of_loss]
    for group in groups:
        group["params"] = [p for p in group["params"] if p.requires_grad]
    optimizer = _make_optimizer(matcher, [group for group in groups if group["params"]])
    for group in optimizer.param_groups:
        rate = group["lr"] if matcher.found_lr is None else matcher.found_lr
        group["lr"] = rate * group.get("lr_scale", 1.0)
    made = check_maker("scheduler", matcher.scheduler, SCHEDULER)
    if made is None:
        return optimizer
    schedule = made if isinstance(made, Schedule) else Schedule(made)
    return [optimizer], [schedule.configure(optimizer, attached_trainer(matcher))]


def step_plateaus(matcher: Any, moment: str) -> None:
    """Step the plateau schedules before a checkpoint is written.

    A schedule of epochs that watches a metric of the validation steps at every validation, as early
    stopping counts. The losses of training differ between processes, so all of them step by the
    mean. A plain schedule of torch, from your own `configure_optimizers`, is stepped by Lightning.
    """
    trainer = matcher.trainer
    if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
        return
    for config in trainer.lr_scheduler_configs:
        if config.frequency == BY_MATCHER and moment == _moment(config):
            value = trainer.callback_metrics.get(config.monitor)
            if value is None:  # nothing logs it
                rank_zero_warn(f"no value of {config.monitor}: its schedule does not step")
            else:
                if trainer.world_size > 1:  # GPUs reduce no tensors of the host
                    value = trainer.strategy.reduce(value.to(matcher.device), reduce_op="mean")
                config.scheduler.step(value)


def _moment(config: Any) -> str:
    """Return when a schedule steps: "step", "epoch" or "validation"."""
    validated = config.interval == "epoch" and str(config.monitor).startswith("val/")
    return "validation" if validated else str(config.interval)


def learning_rate(matcher: Optimised) -> float:
    """Return the learning rate of the main parameters at the start of training."""
    if matcher.found_lr is not None:
        return matcher.found_lr
    trial = _make_optimizer(matcher, [{"params": [nn.Parameter(torch.zeros(1))]}])
    return float(trial.param_groups[0]["lr"])


def check_maker(name: str, make: Any, example: str) -> Any:
    """Return a function that makes an optimiser or a schedule, None, or a `Schedule`.

    Raises:
        TypeError: it is anything else, such as a finished optimiser.
    """
    if make is None or callable(make) or isinstance(make, Schedule):
        return make
    kind = type(make).__name__
    raise TypeError(f"{name} must be a class or a partial, such as {example}, got {kind} object")


def _make_optimizer(matcher: Optimised, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    given = check_maker("optimizer", matcher.optimizer, OPTIMIZER)
    made: Any = torch.optim.Adam(groups, lr=2e-4) if given is None else given(groups)
    if not hasattr(made, "param_groups"):
        raise TypeError(
            f"optimizer must make one optimiser from parameter groups, as {OPTIMIZER} does, got a "
            f"{type(made).__name__}; for anything else, define configure_optimizers in a subclass"
        )
    return made


def configure_gradient_clipping(
    matcher: Optimised,
    optimizer: torch.optim.Optimizer,
    gradient_clip_val: float | None = None,
    gradient_clip_algorithm: str | None = None,
) -> None:
    """Clip the groups that share a "clip" name by their total L2 norm, or every value."""
    if not gradient_clip_val:
        return
    if (trainer := attached_trainer(matcher)) is not None:
        unscale(trainer, optimizer)
    if gradient_clip_algorithm == "value":
        every = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_value_(every, gradient_clip_val)
        return
    sets: dict[str, list[nn.Parameter]] = {}
    for group in optimizer.param_groups:
        sets.setdefault(group.get("clip", "main"), []).extend(group["params"])
    for parameters in sets.values():
        nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
