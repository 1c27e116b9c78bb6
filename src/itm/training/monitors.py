"""Check that a monitored metric improves in the direction that is waited for."""

from __future__ import annotations

import re
from typing import Any

from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

DIRECTIONS = {  # which change of a metric is an improvement
    "max": re.compile(r"(rsum|_r\d+|ncs_\d+)$"),
    "min": re.compile(r"(loss|medr|meanr)$"),
}


def check_mode(option: str, mode: str, monitor: str) -> None:
    """Check that a better value of a known metric counts as an improvement.

    Args:
        option: name of the option, for the message.
        mode: "max" or "min".
        monitor: name of the metric; unknown ones pass.

    Raises:
        ValueError: `mode` waits for the metric to become worse.
    """
    known = (best for best, names in DIRECTIONS.items() if names.search(monitor))
    better = next(known, mode)
    if mode != better:
        moves, wanted = ("rise", "less") if mode == "max" else ("fall", "more")
        raise ValueError(
            f"{option}={mode} waits for {monitor} to {moves}, but {wanted} is better: set "
            f"{option.split()[-1]}={better}"
        )


def check_monitor(callback: Any) -> None:
    """Check that Lightning's early stopping or checkpoints do not wait for worse values.

    Their default is mode="min", which keeps the worst epoch of a recall. Other callbacks pass.

    Raises:
        ValueError: see `check_mode`.
    """
    if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None:
        check_mode(f"{type(callback).__name__}: mode", callback.mode, callback.monitor)
