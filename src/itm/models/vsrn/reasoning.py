"""VSRN's image side: reason over relations between regions, then form one vector per image.

Li et al., Visual Semantic Reasoning for Image-Text Matching, ICCV 2019, sections 3.2 and 3.3.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itm.batch import Images
from itm.layers.batch_norm import Rows, batch_norm, count_rows, masked_batch_norm
from itm.layers.functional import for_products, full, l2norm, last_state, xavier_
from itm.layers.gru import states_of
from itm.layers.weights import joined
from itm.utils.checks import check_choice

EPS = 1e-12  # the original code divides by the plain norm


class GraphBlock(nn.Module):
    """Residual graph convolution: x_i + BN(W sum_j A_ij g(x_j)), A_ij = theta(x_i) . phi(x_j) / n.

    n is the image's number of regions; there is no softmax (section 3.2). The batch norm's weight
    starts at zero, so a block starts as the identity. Its statistics cover the real regions of the
    batch.

    Args:
        dim: width D.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.theta, self.phi, self.g, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.norm = nn.BatchNorm1d(dim)
        nn.init.zeros_(self.norm.weight)

    def weights(self) -> tuple[tuple[Tensor, ...], ...]:
        """Return the groups of weights that `layers.weights.joined` is to join for `forward`."""
        first = (self.theta, self.phi, self.g)  # they read the same vectors: one product
        return (
            tuple(x.weight for x in first),
            tuple(x.bias for x in first),
            (self.out.weight,),
            (self.out.bias,),
        )

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        divisor: Tensor | None = None,
        weights: Sequence[Tensor] | None = None,
        rows: Rows | None = None,
    ) -> Tensor:
        """Map x (I, R, D), zero where the mask (I, R) is False, to the same shape, zero there.

        Args:
            x: region vectors.
            mask: the real regions.
            divisor: from `shares`; None = computed here.
            weights: the joined groups of `weights`; None = joined here.
            rows: from `count_rows`; None = counted here.
        """
        first, first_bias, last, last_bias = weights or joined(*self.weights())
        divisor = shares(mask, first.dtype) if divisor is None else divisor
        theta, phi, g = F.linear(for_products(x), first, first_bias).chunk(3, -1)
        affinity = theta @ phi.mT / divisor  # (I, R, R)
        received = F.linear(affinity @ g, last, last_bias)  # (I, R, D)
        return x + masked_batch_norm(self.norm, received, mask, rows=rows)


def shares(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what affinities are divided by, (I, 1, R): an image's number of regions.

    It is infinite at padding, so that padding sends nothing.
    """
    count = mask.sum(1, keepdim=True).clamp_min(1).to(dtype)  # (I, 1)
    return torch.where(mask, count, math.inf)[:, None]


class RegionReasoning(nn.Module):
    """Linear -> graph blocks -> GRU over the regions in order -> optional batch norm.

    Args:
        img_dim: width F of the region features.
        dim: width D.
        num_gcn: number of graph blocks.
        region_norm: "columns" divides each of the D columns by its norm over the regions, before
            the graph blocks; "none" does not.
        final_bn: apply batch norm to the image vector.

    Raises:
        ValueError: `region_norm` is unknown.
    """

    def __init__(self, img_dim: int, dim: int, num_gcn: int, region_norm: str, final_bn: bool):
        super().__init__()
        check_choice("region_norm", region_norm, ("none", "columns"))
        self.region_norm = region_norm
        self.project = xavier_(nn.Linear(img_dim, dim))
        self.blocks = nn.ModuleList(GraphBlock(dim) for _ in range(num_gcn))
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.norm = nn.BatchNorm1d(dim) if final_bn else None

    def forward(self, images: Images) -> tuple[Tensor, Tensor]:
        """Compute image vectors (I, D), not normalised yet, and region vectors (I, R, D)."""
        regions, mask, _ = images
        weight, bias, *groups = joined(
            (self.project.weight,),
            (self.project.bias,),
            *(group for block in self.blocks for group in cast(GraphBlock, block).weights()),
        )
        x = full(F.linear(regions, weight, bias)).masked_fill(~mask[..., None], 0)  # (I, R, D)
        # Dim 1 is the regions: as in the published weights, each column is normalised over the
        # regions of its image, not each region vector.
        if self.region_norm == "columns":
            x = l2norm(x, dim=1, eps=EPS)
        rows = count_rows(mask, x.dtype) if self.training else None
        divisor = shares(mask, weight.dtype)
        for number, block in enumerate(self.blocks):
            x = block(x, mask, divisor, groups[4 * number : 4 * number + 4], rows)
        x = l2norm(x, dim=1, eps=EPS)
        vector = last_state(states_of(self.rnn, x), mask.sum(1))  # (I, D)
        return vector if self.norm is None else batch_norm(self.norm, vector), x
