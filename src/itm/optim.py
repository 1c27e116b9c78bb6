"""The step schedule of the published systems, per parameter group."""

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


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
