"""Define learning-rate schedules, when they step, and TensorFlow's Adam."""

import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from itm.training.lightning_private import count_steps, steps_per_epoch
from itm.training.monitors import check_mode
from itm.training.optim_values import check_values
from itm.utils.checks import check_choice

BY_MATCHER = 2**62  # steps between those of Lightning, which would come after the checkpoint
LENGTHS = ("total", "total_steps", "total_iters", "T_max")  # None = the whole training


class Schedule:
    """A learning-rate schedule and when it steps.

    Args:
        make: optimiser -> scheduler, such as `functools.partial(StepLR, step_size=15)`. In a
            partial, None for an argument in `LENGTHS` stands for the whole training, and
            `max_lr=None` for the rate of each parameter group. A number for `max_lr` or `base_lr`
            is multiplied by the "lr_scale" of the group.
        interval: "epoch" or "step"; None = "step" for OneCycleLR and CyclicLR, else "epoch".
        monitor: metric that `ReduceLROnPlateau` reads.

    Raises:
        ValueError: an argument of a partial is out of its range.

    Examples:
        >>> from functools import partial
        >>> from torch.optim.lr_scheduler import OneCycleLR
        >>> from itm.models import VSRN
        >>> from itm.training.optim import Schedule
        >>> one_cycle = partial(OneCycleLR, max_lr=1e-3, total_steps=1000)
        >>> matcher = VSRN(scheduler=Schedule(one_cycle, interval="step"))
    """

    def __init__(
        self, make: Callable[..., Any], interval: str | None = None, monitor: str = "val/rsum"
    ):
        if interval is not None:
            check_choice("scheduler.interval", interval, ("epoch", "step"))
        check_values("scheduler", getattr(make, "func", make), getattr(make, "keywords", {}))
        self.make = make
        self.interval = interval
        self.monitor = monitor

    def configure(self, optimizer: Optimizer, trainer: Any = None) -> dict[str, Any]:
        """Make the scheduler, in the form that Lightning takes.

        Args:
            optimizer: the optimiser, with its learning rates.
            trainer: Lightning's trainer, which knows the length of the training.

        Raises:
            TypeError: `make` returns something else than a scheduler, such as Lightning's dict.
            ValueError: a plateau schedule waits for a metric to become worse, or reads one of the
                validation after every step; or the length of the training or of an epoch is
                unknown.
        """
        interval = self._unit
        scheduler = self.make(optimizer, **self._open(optimizer, interval, trainer))
        if not hasattr(scheduler, "optimizer"):
            raise TypeError(
                "scheduler must make one learning-rate scheduler from an optimiser, got a "
                f"{type(scheduler).__name__}; itm.training.optim.Schedule(make, interval=..., "
                "monitor=...) says when it steps"
            )
        config: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
        if isinstance(scheduler, StepLR) and interval == "step":
            _count_own_steps(optimizer, trainer)
        if isinstance(scheduler, ReduceLROnPlateau):
            check_mode("scheduler.mode", scheduler.mode, self.monitor)
            if interval == "step" and self.monitor.startswith("val/"):
                raise ValueError(
                    f"scheduler.interval=step reads {self.monitor} after every step, but it only "
                    "changes with a validation: set scheduler.interval=epoch, or "
                    "scheduler.monitor=train/loss"
                )
            config |= {"monitor": self.monitor, "frequency": BY_MATCHER}
        return config

    @property
    def counts_steps(self) -> bool:
        """Whether the schedule spans the whole training, counted in steps."""
        given = getattr(self.make, "keywords", {})
        return self._unit == "step" and any(
            name in given and given[name] is None for name in LENGTHS
        )

    @property
    def _unit(self) -> str:
        """Return "epoch" or "step"."""
        made = getattr(self.make, "func", self.make)
        by_step = inspect.isclass(made) and issubclass(made, OneCycleLR | CyclicLR)
        return self.interval or ("step" if by_step else "epoch")

    def _open(self, optimizer: Optimizer, interval: str, trainer: Any) -> dict[str, Any]:
        """Find the values of the arguments that the options leave open."""
        given = getattr(self.make, "keywords", {})
        values: dict[str, Any] = {}
        for name in LENGTHS:
            if name in given and given[name] is None and "epochs" not in given:
                values[name] = _length(interval, trainer, name)
        if "max_lr" in given and given["max_lr"] is None:
            values["max_lr"] = [group["lr"] for group in optimizer.param_groups]
        scales = [group.get("lr_scale", 1.0) for group in optimizer.param_groups]
        for name in ("max_lr", "base_lr"):  # of OneCycleLR and CyclicLR: the rate of the main group
            if isinstance(given.get(name), int | float) and len({*scales}) > 1:
                values[name] = [given[name] * scale for scale in scales]
        return values


def _length(interval: str, trainer: Any, name: str) -> int:
    """Count the steps or epochs of the whole training.

    Raises:
        ValueError: there is no trainer, or another condition ends the training.
    """
    length: float | None = None
    if trainer is not None and interval == "step":
        length = count_steps(trainer)
    elif trainer is not None and trainer.max_steps == -1:
        length = trainer.max_epochs
    if length is None or not 0 < length < math.inf:
        ends = interval == "epoch" and trainer is not None and trainer.max_steps != -1
        why = "max_steps ends the training" if ends else "max_epochs is not set"
        raise ValueError(
            f"scheduler.{name}=null stands for the whole training, whose length in {interval}s is "
            f"unknown{'' if trainer is None else f', since {why}'}: set scheduler.{name}"
            + ("" if interval == "step" else " or scheduler.interval=step")
        )
    return int(length)


def _count_own_steps(optimizer: Optimizer, trainer: Any) -> None:
    """Turn the step sizes that parameter groups bring, in epochs, into optimiser steps.

    Raises:
        ValueError: a group brings a step size, and the number of steps in an epoch is unknown.
    """
    own = [group for group in optimizer.param_groups if "step_size" in group]
    steps = steps_per_epoch(trainer) if own and trainer is not None else math.inf
    for group in own:
        if not 0 < steps < math.inf:
            raise ValueError(
                f"scheduler.interval=step: the parameter group {group.get('name')} brings "
                f"step_size={group['step_size']} in epochs, but the number of steps in an epoch is "
                f"unknown{' without a trainer' if trainer is None else ''}: set "
                "scheduler.interval=epoch"
            )
        group["step_size"] *= int(steps)


class CosineLR(LRScheduler):
    """lr = base * (end + (1 - end) * (1 + cos(pi * t / T)) / 2), after a linear warm-up.

    t counts epochs or steps since the warm-up and T is their number; the rate stays at base * end
    afterwards. Loshchilov and Hutter, SGDR, ICLR 2017, equation 5, without restarts. Unlike torch's
    `CosineAnnealingLR` it is a function of t alone, so a resumed run may change `total`.

    Args:
        optimizer: the optimiser, with the rates to start from.
        total: epochs or steps of the whole schedule.
        warmup: share of `total` in which the rate rises linearly.
        end: last rate, as a share of the first.

    Raises:
        ValueError: a value is out of range.

    Examples:
        >>> from functools import partial
        >>> from itm.models import VSRN
        >>> matcher = VSRN(scheduler=partial(CosineLR, total=30, warmup=0.1))
    """

    def __init__(self, optimizer: Optimizer, total: int, warmup: float = 0.0, end: float = 0.0):
        if total < 1 or not 0 <= warmup < 1 or not 0 <= end <= 1:
            raise ValueError(
                f"scheduler.total={total}, warmup={warmup}, end={end}: expected total of at least "
                "1, 0 <= warmup < 1 and 0 <= end <= 1"
            )
        self.total = total
        self.warmup = warmup
        self.end = end
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Compute the learning rate of each group in the current epoch or step."""
        rises = round(self.warmup * self.total)
        done = self.last_epoch
        if done < rises:
            share = (done + 1) / rises
        else:
            place = (done - rises) / (self.total - rises) if done < self.total else 1.0
            share = self.end + (1 - self.end) * (1 + math.cos(math.pi * place)) / 2
        return [base * share for base in self.base_lrs]


class StepLR(LRScheduler):
    """lr = base * gamma ^ (epoch // step_size), as `torch.optim.lr_scheduler.StepLR`, except that a
    parameter group may bring its own "step_size" and "gamma" (CASC's label head, CVSE's graph).
    Such a step size is in epochs; with interval "step", `Schedule` turns it into steps. "ahead" is
    how far a resumed run is ahead of the schedule, in steps of another size than before.

    Raises:
        ValueError: a step size is below 1, or a gamma is not above 0.

    Examples:
        >>> from functools import partial
        >>> from itm.models import CASC
        >>> matcher = CASC(scheduler=partial(StepLR, step_size=15))
    """  # noqa: D205

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1):
        for values in ({"step_size": step_size, "gamma": gamma}, *optimizer.param_groups):
            given: dict[str, Any] = {k: values[k] for k in ("step_size", "gamma") if k in values}
            check_values("scheduler", StepLR, given)
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Compute the learning rate of each group in the current epoch."""
        return [
            base
            * group.get("gamma", self.gamma)
            ** ((self.last_epoch + group.get("ahead", 0)) // group.get("step_size", self.step_size))
            for base, group in zip(self.base_lrs, self.optimizer.param_groups, strict=True)
        ]


class TensorflowAdam(Adam):
    """Adam as TensorFlow computes it; the two-branch networks and CITE were trained with it.

    p_t = p_{t-1} - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m_t / (sqrt(v_t) + eps)

    m and v are the moments of the gradient. Torch divides by sqrt(v_t / (1 - beta2^t)) + eps, so
    its eps has less effect, mainly in the first steps. This is
    `tf.compat.v1.train.AdamOptimizer`, the "epsilon hat" of Kingma and Ba, ICLR 2015, end of
    section 2. It takes the arguments of `torch.optim.Adam`.

    Examples:
        >>> from functools import partial
        >>> from itm.models import TwoBranchEmbedding
        >>> matcher = TwoBranchEmbedding(optimizer=partial(TensorflowAdam, lr=1e-4))
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step, with torch's eps set so that both formulas agree."""
        given = [group["eps"] for group in self.param_groups]
        for group in self.param_groups:
            done = [int(self.state[p]["step"]) for p in group["params"] if p in self.state]
            group["eps"] /= (1 - group["betas"][1] ** (1 + max(done, default=0))) ** 0.5
        try:
            return super().step(closure)
        finally:
            for group, eps in zip(self.param_groups, given, strict=True):
                group["eps"] = eps
