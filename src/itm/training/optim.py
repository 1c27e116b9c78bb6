"""When learning rates change; the step schedule of the published systems; TensorFlow's Adam."""

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau


class Schedule:
    """A learning-rate schedule and when it steps.

    Args:
        make: optimiser -> scheduler, such as `functools.partial(StepLR, step_size=15)`.
        interval: "epoch" or "step"; None = "step" for OneCycleLR and CyclicLR, else "epoch".
        monitor: metric that `ReduceLROnPlateau` reads.
    """

    def __init__(
        self, make: Callable[..., Any], interval: str | None = None, monitor: str = "val/rsum"
    ):
        if interval not in (None, "epoch", "step"):
            raise ValueError(f"scheduler.interval={interval} must be 'epoch' or 'step'")
        self.make = make
        self.interval = interval
        self.monitor = monitor

    def configure(self, optimizer: Optimizer) -> dict[str, Any]:
        """Make the scheduler, in the form that Lightning takes.

        Raises:
            ValueError: a plateau schedule that waits for a recall to fall.
        """
        scheduler = self.make(optimizer)
        by_step = isinstance(scheduler, OneCycleLR | CyclicLR)
        interval = self.interval or ("step" if by_step else "epoch")
        config: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            rises = re.search(r"(rsum|_r\d+|ncs_\d+)$", self.monitor)
            if rises and scheduler.mode == "min":
                raise ValueError(
                    f"scheduler.mode=min waits for {self.monitor} to fall, but more is better: "
                    "set scheduler.mode=max"
                )
            # Not strict: an epoch without a validation has no new value.
            config |= {"monitor": self.monitor, "strict": False}
        return config


class StepLR(LRScheduler):
    """lr = base * gamma ^ (epoch // step_size), as `torch.optim.lr_scheduler.StepLR`, except that a
    parameter group may bring its own "step_size" and "gamma" (CASC's label head, CVSE's graph).
    """  # noqa: D205

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1):
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Learning rate of each group in the current epoch."""
        return [
            base
            * group.get("gamma", self.gamma)
            ** (self.last_epoch // group.get("step_size", self.step_size))
            for base, group in zip(self.base_lrs, self.optimizer.param_groups, strict=True)
        ]


class TensorflowAdam(Adam):
    """Adam as TensorFlow computes it, with which the two-branch networks and CITE were trained.

    p_t = p_{t-1} - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m_t / (sqrt(v_t) + eps)

    with the moments m and v of the gradient. Torch divides by sqrt(v_t / (1 - beta2^t)) + eps: its
    eps counts less, above all in the first steps. This is `tf.compat.v1.train.AdamOptimizer`, the
    "epsilon hat" of Kingma and Ba, ICLR 2015, end of section 2. Arguments: `torch.optim.Adam`'s.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, with torch's eps set to what makes the two equal."""
        given = [group["eps"] for group in self.param_groups]
        for group in self.param_groups:
            done = [int(self.state[p]["step"]) for p in group["params"] if p in self.state]
            group["eps"] /= (1 - group["betas"][1] ** (1 + max(done, default=0))) ** 0.5
        try:
            return super().step(closure)
        finally:
            for group, eps in zip(self.param_groups, given, strict=True):
                group["eps"] = eps
