"""Bring several weights into the type of the products with one kernel.

Autocast casts each weight and each bias by a kernel of its own, and their gradients likewise.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def joined(*groups: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Concatenate the tensors of each group along dim 0, in the type in which products run.

    Args:
        groups: of tensors that differ in dim 0 only.

    Returns:
        A tensor per group: under autocast in its type, copied by one kernel, else in their own.
    """
    device = groups[0][0].device.type
    if not torch.is_autocast_enabled(device):
        return tuple(x[0] if len(x) == 1 else torch.cat(list(x)) for x in groups)
    sizes = [len(x) for x in groups]
    found: tuple[Tensor, ...] = Joined.apply(
        torch.get_autocast_dtype(device), sizes, *(x for group in groups for x in group)
    )
    return found


def linear_maps(*layers: nn.Linear) -> list[Callable[[Tensor], Tensor]]:
    """Return linear layers as functions of their inputs; `joined` casts all their weights."""
    tensors = joined(*((x,) for layer in layers for x in (layer.weight, layer.bias)))
    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return [partial(F.linear, weight=weight, bias=bias) for weight, bias in pairs]


class Joined(torch.autograd.Function):
    """Implement `joined` for a type; `sizes` are the numbers of tensors in the groups."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, sizes: Sequence[int], *tensors: Tensor) -> Any:
        """Return a tensor per group."""
        ctx.rows, ctx.sizes = [len(x) for x in tensors], sizes
        ctx.dtypes = [x.dtype for x in tensors]
        found, parts, first = [], [], 0
        for size in sizes:
            rows = ctx.rows[first : first + size]
            whole = torch.empty(
                sum(rows), *tensors[first].shape[1:], dtype=dtype, device=tensors[first].device
            )
            found.append(whole)
            parts += whole.split(rows)
            first += size
        torch._foreach_copy_(parts, tensors)
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Split the gradients, and widen all of them by one kernel."""
        parts, first = [], 0
        for size, gradient in zip(ctx.sizes, gradients, strict=True):
            parts += gradient.split(ctx.rows[first : first + size])
            first += size
        wide = [torch.empty_like(x, dtype=t) for x, t in zip(parts, ctx.dtypes, strict=True)]
        torch._foreach_copy_(wide, parts)
        return None, None, *wide
