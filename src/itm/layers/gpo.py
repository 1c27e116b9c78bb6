"""Generalised pooling operator (GPO): pool a set of vectors by weights that are learnt per rank.

Chen, Hu, Wu, Jiang, Wang: Learning the Best Pooling Strategy for Visual Semantic Embedding,
CVPR 2021, section 3.2. Mean, maximum and k-max pooling are special cases.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from itm.layers.functional import full, full_precision
from itm.layers.gru import run_gru
from itm.layers.packing import by_step

TEMPERATURE = 0.1  # divides the scores of the ranks (authors' code)
TABLE = 64  # up to this many parts, weights for every count are computed without asking a device
BLOCK = 1 << 16  # values that are sorted at once on a CPU
PLACE = (1 << 29) - 1  # the bits of a float64 that are 0 if its value fits into float32


def position_codes(count: int, width: int, device: torch.device | None = None) -> Tensor:
    """Compute sines and cosines of the positions 0 .. count-1, (count, width) float32.

    P[p, 2k] = sin(p w_k) and P[p, 2k+1] = cos(p w_k) with w_k = 10000^(-2k / width).
    """
    position = torch.arange(count, dtype=torch.float32, device=device)[:, None]
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=device)
    angles = position * torch.exp(steps * (-math.log(10000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class RankedSum(torch.autograd.Function):
    """Sum the ranks of each column with weights: x (N, P, D), weights (N, P), mask -> (N, D).

    Ranks and their weights begin with the smallest value; padding ranks first, with weight 0. The
    gradient of a value is the weight of its rank, so the way back needs no order.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
        """Rank the columns and sum them."""
        ranked, shares = by_rank(x, weights, mask, ctx.needs_input_grad[0])
        ctx.save_for_backward(ranked, shares)
        return (ranked @ weights[..., None]).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        """Return the gradients of x and weights."""
        ranked, shares = ctx.saved_tensors
        by_x = None if shares is None else shares * gradient[:, None]
        return by_x, (gradient[:, None] @ ranked).squeeze(1), None


@torch.compiler.disable
@torch.no_grad()
def by_rank(
    x: Tensor, weights: Tensor, mask: Tensor, shares: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Sort each column of a set, smallest first, and give each value the weight of its rank.

    Args:
        x: (N, P, D), at least float32; padding has any value.
        weights: (N, P) of the ranks, smallest first, with padding before it.
        mask: (N, P) real parts.
        shares: compute the second result too.

    Returns:
        The ranks (N, D, P), 0 for padding; and the weight of each value (N, P, D), or None.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32:
        ranked, found = _by_key(x, weights, mask, shares)
    else:
        columns = x.mT.masked_fill(~mask[:, None], float("-inf"))  # (N, D, P)
        ranked, order = columns.sort(-1)
        found = _assigned(weights, order) if shares else None
    missing = torch.arange(x.shape[1], device=x.device) < (~mask).sum(1, keepdim=True)
    return ranked.masked_fill_(missing[:, None], 0), found


def _by_key(x: Tensor, weights: Tensor, mask: Tensor, shares: bool) -> tuple[Tensor, Tensor | None]:
    """Sort float32 on a CPU, by numpy and a few sets at a time so that they stay in the cache.

    A float64 key holds the value and, in the bits that float32 lacks, its place. Sorting keys takes
    half the time of finding an order, and rounding a key gives its value back.
    """
    size, width = x.shape[1:]
    ranked = x.new_zeros(len(x), width, size)
    found = torch.zeros_like(x, memory_format=torch.contiguous_format) if shares else None
    step = max(1, BLOCK // max(1, size * width))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        real = mask[rows].numpy()
        longest = int(real.any(0).nonzero()[0].max(initial=-1)) + 1
        real = real[:, None, :longest]
        keys = x[rows, :longest].mT.numpy().astype(np.float64, order="C")
        if not real.all():
            keys = np.where(real, keys, float(np.finfo(np.float32).min))
        bits = keys.view(np.int64)
        bits |= np.arange(longest)
        keys.sort(-1)
        ranked[rows, :, size - longest :] = torch.from_numpy(keys)
        if found is not None:
            bits &= PLACE
            order = torch.from_numpy(bits)
            found[rows, :longest] = _assigned(weights[rows, size - longest :], order)
    return ranked, found


def _assigned(weights: Tensor, order: Tensor) -> Tensor:
    """Give each value the weight of its rank: weights (n, P), order (n, D, P) -> (n, P, D)."""
    found = weights.new_empty(order.shape)
    return found.scatter_(-1, order, weights[:, None].expand_as(order)).mT


class GPO(nn.Module):
    """Sort each column of a set of n vectors, then sum its ranks with weights that depend on n.

    h = BiGRU(P) over the codes of the positions 0 .. n-1; g_p = mean of both directions of h_p;
    theta = softmax_p(u . g_p / 0.1);  GPO(X)_d = sum_p theta_p (p-th largest of X[:, d]).

    Args:
        width: width of the position codes and of the GRU (published: 32).

    Examples:
        >>> import torch
        >>> from itm.layers import GPO
        >>> pool = GPO(width=8)
        >>> pool(torch.rand(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)).shape
        torch.Size([2, 16])
    """

    def __init__(self, width: int = 32):
        super().__init__()
        self.width = width
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool parts (N, P, D) with mask (N, P) to (N, D), in at least float32.

        A row without real parts gives zero.
        """
        pooled: Tensor = self._sum(full(x), self.weights(mask).flip(1), mask)
        return pooled

    @full_precision
    def _sum(self, x: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
        pooled: Tensor = RankedSum.apply(x, weights, mask)
        return pooled

    def weights(self, mask: Tensor) -> Tensor:
        """Return the weight of each rank for sets with mask (N, P): (N, P), 0 beyond their counts.

        On a device, sets of up to 64 parts never wait for it; larger ones ask it for their counts.
        """
        size, counts = mask.shape[1], mask.sum(1)
        if not size:
            return full(self.score.weight).new_zeros(mask.shape)
        if size <= TABLE and mask.device.type != "cpu":
            table = self.table(list(range(1, size + 1)), size)
            found = table[counts.clamp_min(1) - 1]
        else:
            distinct, place = counts.clamp_min(1).unique(return_inverse=True)
            found = self.table(distinct.tolist(), size)[place]
        return found.masked_fill((counts == 0)[:, None], 0)

    @torch.compiler.disable
    def table(self, counts: list[int], size: int) -> Tensor:
        """Compute the weights of sets of `counts` parts, (len(counts), size); a row sums to 1.

        Args:
            counts: numbers of parts from 1 to `size`.
            size: width of the table.
        """
        weight = self.score.weight
        rows, sizes, _ = by_step(counts, size, weight.device)
        # In float32 whatever the parameters' type and the trainer's precision, as in the original.
        with torch.autocast(weight.device.type, enabled=False):
            codes = position_codes(size, self.width, weight.device).to(weight.dtype)
            states = run_gru(self.gru, codes.index_select(0, rows % size), sizes)
            forward, backward = states.chunk(2, -1)
            scores = full(self.score((forward + backward) / 2)).squeeze(-1) / TEMPERATURE
            beyond = scores.new_full((len(counts) * size,), float("-inf"))
            return beyond.index_copy(0, rows, scores).view(-1, size).softmax(-1)

    def shares(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the weight of each part in each column of the result, (N, P, D).

        The result is the sum over parts of shares x parts.
        """
        shares = by_rank(full(x), self.weights(mask).flip(1), mask, True)[1]
        assert shares is not None
        return shares
