"""Work in several processes: find the rank, gather rows with their gradients."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_size() -> tuple[int, int]:
    """Return the number of this process and the count of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_rows(x: Tensor) -> Tensor:
    """Gather the rows of all processes in rank order, differentiably; (n, ...) -> (sum of n, ...).

    Processes may differ in every dimension. Rows keep their number; other dimensions, such as
    regions or words, are padded with zeros to the largest size.
    """
    _, processes = rank_and_size()
    if processes == 1:
        return x
    shape = torch.tensor(x.shape, device=x.device)
    shapes = [torch.empty_like(shape) for _ in range(processes)]
    dist.all_gather(shapes, shape)
    every = torch.stack(shapes).tolist()
    largest = [max(sizes) for sizes in zip(*every, strict=True)]
    padding = [n for a, b in zip(x.shape, largest, strict=True) for n in (b - a, 0)]
    padded = torch.nn.functional.pad(x, padding[::-1])  # from the last dimension, (before, after)
    gather: Callable[[Tensor], tuple[Tensor, ...]] = _AllGather.apply
    parts = gather(padded)
    return torch.cat([part[: sizes[0]] for part, sizes in zip(parts, every, strict=True)])


class _AllGather(torch.autograd.Function):
    """Gather tensors of equal shape; backward sums the gradients that all processes have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x)
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every process must take part in the sum, or the others would wait forever.
        total = torch.stack(gradients)
        dist.all_reduce(total)
        return total[dist.get_rank()]
