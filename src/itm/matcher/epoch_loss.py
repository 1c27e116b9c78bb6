"""Average the loss over an epoch, for schedules and callbacks that watch `train/loss`."""

from __future__ import annotations

from torch import Tensor


class EpochLoss:
    """The mean loss per pair since an epoch began.

    The loss of one batch says little, least of all that of the last and shortest one. The sum stays
    on the device, so that training does not wait for it, and is kept in checkpoints.
    """

    def __init__(self) -> None:
        self._total: Tensor | float = 0.0
        self._pairs = 0

    def reset(self) -> None:
        """Begin an epoch."""
        self._total, self._pairs = 0.0, 0

    def add(self, per_pair: Tensor, pairs: int) -> None:
        """Add the mean loss of a batch."""
        self._total = self._total + per_pair * pairs
        self._pairs += pairs

    @property
    def mean(self) -> Tensor | float | None:
        """The mean over the pairs, None without any."""
        return self._total / self._pairs if self._pairs else None

    def state_dict(self) -> dict[str, float]:
        """Return sum and number of pairs."""
        return {"total": float(self._total), "pairs": self._pairs}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue an epoch."""
        self._total, self._pairs = float(state["total"]), int(state["pairs"])
