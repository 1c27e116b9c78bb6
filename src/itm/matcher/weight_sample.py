"""Notice that the weights of a matcher have changed since something was made with them."""

from __future__ import annotations

import torch
from torch import Tensor

from itm.matcher.protocol import MatcherLike
from itm.matcher.state import LOSS

VALUES = 8  # of each parameter; a training step changes nearly all of them


def weight_sample(matcher: MatcherLike) -> Tensor:
    """Take a few values of every parameter outside the loss, (n,) on the CPU.

    Unlike the version counters of torch, values also show the steps of fused optimisers, and stay
    when a matcher is copied or sent to another device.
    """
    parts = [
        parameter.detach().flatten()[:: max(1, parameter.numel() // VALUES)][:VALUES]
        for name, parameter in matcher.named_parameters()
        if not name.startswith(LOSS)
    ]
    return torch.cat([part.double() for part in parts]).cpu() if parts else torch.empty(0)


def same_weights(matcher: MatcherLike, before: Tensor) -> bool:
    """Tell whether a matcher still has the weights of a sample, in whatever type of numbers."""
    now = weight_sample(matcher)
    coarse = [
        torch.finfo(x.dtype).eps for _, x in matcher.named_parameters() if x.is_floating_point()
    ]
    rounding = max([0.0, *(eps for eps in coarse if eps > torch.finfo(torch.float32).eps)])
    return now.shape == before.shape and torch.allclose(
        now, before, rtol=rounding, atol=0.0, equal_nan=True
    )
