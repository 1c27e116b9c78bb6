"""Check the numbers that an optimiser or a schedule is made with.

torch divides by some of them, and with others it trains at a rate of zero or below without a word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from itm.utils.checks import check_least

COUNTS = (  # of epochs or steps; the rate is divided by them, or they end a schedule
    "step_size", "step_size_up", "step_size_down", "total", "total_steps", "total_iters", "T_max",
    "T_0", "T_mult", "epochs", "steps_per_epoch", "milestones",
)  # fmt: skip
LEAST = {
    **dict.fromkeys(COUNTS, 1),
    **dict.fromkeys(
        (
            "lr", "base_lr", "min_lr", "eta_min", "patience", "cooldown", "threshold", "eps",
            "weight_decay", "momentum", "alpha", "warmup", "end", "start_factor", "end_factor",
        ),
        0,
    ),
}  # fmt: skip
POSITIVE = ("max_lr", "gamma", "factor", "div_factor", "final_div_factor")


def check_values(owner: str, made: Any, values: Mapping[str, Any]) -> None:
    """Check the arguments of an optimiser or a schedule, by their names in torch.

    Args:
        owner: "optimizer" or "scheduler", for messages.
        made: the class; values of classes that are not of torch or this library pass, because they
            may mean something else by these names.
        values: name -> value; arguments of other names, and None, pass.

    Raises:
        ValueError: a number, or one of a list, is not finite, is too small, or a list is empty.
    """
    if not f"{getattr(made, '__module__', '')}.".startswith(("torch.", "itm.")):
        return
    for name, value in values.items():
        option = f"{owner}.{name}"
        numbers = list(value) if isinstance(value, list | tuple) else [value]
        if name in COUNTS:
            hint = " (or null)" if name in ("step_size", "total", "total_steps", "T_max") else ""
            if not numbers:
                raise ValueError(f"{option} must hold at least one number, got {value}")
            if any(isinstance(x, int | float) and not x >= 1 for x in numbers):
                raise ValueError(f"{option} must be at least 1{hint}, got {value}")
        if any(isinstance(x, float) and not math.isfinite(x) for x in numbers):
            raise ValueError(f"{option} must be finite, got {value}")
        if name in POSITIVE and any(isinstance(x, int | float) and not x > 0 for x in numbers):
            raise ValueError(f"{option} must be above 0, got {value}")
        check_least({option: value}, {f"{owner}.{n}": least for n, least in LEAST.items()})
        if name == "betas" and not _are_betas(value):
            raise ValueError(f"{option} must be two numbers from 0 to below 1, got {value}")


def _are_betas(value: Any) -> bool:
    """Tell whether a value can be the betas of Adam; those of other types are left to torch."""
    if isinstance(value, int | float):
        return False
    if not isinstance(value, list | tuple):
        return True
    numbers = [x for x in value if isinstance(x, int | float)]
    return len(value) == 2 and all(0 <= x < 1 for x in numbers)
