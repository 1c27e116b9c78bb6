"""Loading weights: every tensor must be there, known, of the right shape and finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from itm.matcher.matcher import Matcher


def load_strictly(matcher: Matcher, tensors: dict[str, Tensor], source: str) -> None:
    """Load weights; every tensor must be there, known, of the right shape, and of numbers.

    Raises:
        ValueError: with the names that are missing, unexpected, misshapen or not finite.
    """
    own = {k: v for k, v in matcher.state_dict().items() if not k.startswith("loss.")}
    counts = {k: torch.tensor(0) for k in own if k.endswith("num_batches_tracked")}
    tensors = {**counts, **tensors}  # PyTorch before 0.4.1 did not count them
    problems = [f"missing {k} {tuple(own[k].shape)}" for k in own if k not in tensors]
    problems += [f"unexpected {k} {tuple(tensors[k].shape)}" for k in tensors if k not in own]
    problems += [
        f"{k} is {tuple(tensors[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in tensors and own[k].shape != tensors[k].shape
    ]
    problems += [f"{k} holds NaN or infinity" for k in tensors if not tensors[k].isfinite().all()]
    if problems:
        raise ValueError(
            f"{source}: weights do not fit {type(matcher).__name__}:\n  " + "\n  ".join(problems)
        )
    matcher.load_state_dict(tensors, strict=matcher.loss is None)
