"""Generalised pooling operator (GPO): pool a set of vectors by weights that are learnt per rank.

Chen, Hu, Wu, Jiang, Wang: Learning the Best Pooling Strategy for Visual Semantic Embedding,
CVPR 2021, section 3.2. Mean, maximum and k-max pooling are special cases.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from itm.layers.functional import full, full_precision
from itm.layers.gru import run_gru
from itm.layers.packing import by_step

TEMPERATURE = 0.1  # divides the scores of the ranks (authors' code)
TABLE = 64  # up to this many parts, weights for every count are computed without asking the device


def position_codes(count: int, width: int, device: torch.device | None = None) -> Tensor:
    """Compute sines and cosines of the positions 0 .. count-1, (count, width) float32.

    P[p, 2k] = sin(p w_k) and P[p, 2k+1] = cos(p w_k) with w_k = 10000^(-2k / width).
    """
    position = torch.arange(count, dtype=torch.float32, device=device)[:, None]
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=device)
    angles = position * torch.exp(steps * (-math.log(10000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


@torch.compiler.disable
def ascending(x: Tensor) -> Tensor:
    """Return the indices that sort the last axis, smallest first.

    On a CPU, numpy sorts rows of a few dozen numbers four times as fast as torch.
    """
    if x.device.type == "cpu":
        return torch.from_numpy(np.argsort(x.detach().numpy(), -1))
    return x.argsort(-1)


class GPO(nn.Module):
    """Sort each column of a set of n vectors, then sum its ranks with weights that depend on n.

    h = BiGRU(P) over the codes of the positions 0 .. n-1; g_p = mean of both directions of h_p;
    theta = softmax_p(u . g_p / 0.1);  GPO(X)_d = sum_p theta_p (p-th largest of X[:, d]).

    Args:
        width: width of the position codes and of the GRU (published: 32).
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
        columns = full(x).mT.masked_fill(~mask[:, None], float("-inf"))  # (N, D, P)
        ranked = columns.gather(-1, ascending(columns))
        return self._sum(ranked, self.weights(mask).flip(1), mask)

    @full_precision
    def _sum(self, ranked: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
        """Sum the ranks, smallest first, so that padding comes first."""
        size = mask.shape[1]
        missing = torch.arange(size, device=mask.device) < size - mask.sum(1, keepdim=True)
        return (ranked.masked_fill(missing[:, None], 0) @ weights[..., None]).squeeze(-1)

    def weights(self, mask: Tensor) -> Tensor:
        """Return the weight of each rank for sets with mask (N, P): (N, P), 0 beyond their counts.

        Sets of up to 64 parts never wait for the device; larger ones ask it for their counts.
        """
        size, counts = mask.shape[1], mask.sum(1)
        if not size:
            return full(self.score.weight).new_zeros(mask.shape)
        if size <= TABLE:
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
        columns = full(x).mT.masked_fill(~mask[:, None], float("-inf"))
        ranks = ascending(ascending(columns))  # (N, D, P)
        weights = self.weights(mask).flip(1)[:, None].expand_as(ranks)
        return weights.gather(-1, ranks).masked_fill(~mask[:, None], 0).mT
