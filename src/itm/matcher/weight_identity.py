"""Notice that the weights of a matcher have changed since something was made with them."""

from __future__ import annotations

import hashlib
from itertools import chain

import torch
from torch import Tensor

from itm.matcher.protocol import MatcherLike
from itm.matcher.state import LOSS

VALUES = 8  # of each parameter; a training step changes nearly all of them


def weight_sample(matcher: MatcherLike) -> Tensor:
    """Take a few values of every parameter and statistic outside the loss, (n,) on the CPU.

    Statistics are those of batch norms, which change without a step of the optimiser. Unlike the
    version counters of torch, values also show the steps of fused optimisers, and stay when a
    matcher is copied or sent to another device.
    """
    parts = [
        tensor.detach().flatten()[:: max(1, tensor.numel() // VALUES)][:VALUES]
        for name, tensor in chain(matcher.named_parameters(), matcher.named_buffers())
        if not name.startswith(LOSS) and tensor.is_floating_point()
    ]
    return torch.cat(parts).cpu() if parts else torch.empty(0)


def same_weights(matcher: MatcherLike, before: Tensor) -> bool:
    """Tell whether a matcher still has the weights of a sample, in whatever type of numbers."""
    now = weight_sample(matcher)
    kinds = {now.dtype, before.dtype}
    rounding = max(torch.finfo(kind).eps for kind in kinds) if len(kinds) > 1 else 0.0
    return now.shape == before.shape and torch.allclose(
        now.double(), before.double(), rtol=rounding, atol=rounding**2, equal_nan=True
    )


def weight_digest(matcher: MatcherLike) -> str:
    """Hash all weights and buffers outside the loss, as float32.

    Files keep other precisions of a training, and loading turns them into float32; so the digest of
    a matcher that was trained, and of the same one when it was loaded, are equal.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(matcher.state_dict().items()):
        if name.startswith(LOSS):
            continue
        values = tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
