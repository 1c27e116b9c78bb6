"""VSRN's image side: reason over relations between regions, then form one vector per image.

Li et al., Visual Semantic Reasoning for Image-Text Matching, ICCV 2019, sections 3.2 and 3.3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itm.batch import Images
from itm.layers.functional import full, full_precision, l2norm, last_state, xavier_

EPS = 1e-12  # the original code divides by the plain norm


@full_precision
def batch_norm(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Apply `norm` to the rows of x (N, D), in at least float32.

    A single row has no variance, so in training it is normalised by the running statistics: the
    last batch of an epoch may be a single image.
    """
    x = full(x)
    # Synchronised statistics cover all processes; skipping them here would block the others.
    if norm.training and len(x) < 2 and not isinstance(norm, nn.SyncBatchNorm):
        mean, var = norm.running_mean, norm.running_var
        return F.batch_norm(x, mean, var, norm.weight, norm.bias, eps=norm.eps)
    # As one sequence (1, D, N): on rows, the CPU kernel loses a digit when mean^2 >> variance.
    return norm(x.T[None].contiguous())[0].T


@full_precision
def masked_batch_norm(norm: nn.BatchNorm1d, x: Tensor, mask: Tensor) -> Tensor:
    """Apply `batch_norm` to the rows of x (I, R, D) where mask (I, R) is True; zero elsewhere.

    Selecting these rows would wait for the device to count them and cannot be compiled. Only for
    statistics over several processes, torch's own layer is used, which needs the selection.
    """
    x = full(x)
    if norm.training and isinstance(norm, nn.SyncBatchNorm):
        y = torch.zeros_like(x)
        y[mask] = norm(x[mask])
        return y
    mean, var, real = norm.running_mean, norm.running_var, mask[..., None]
    tracked = norm.num_batches_tracked
    assert mean is not None and var is not None and tracked is not None
    if norm.training:
        count = mask.sum()
        own_mean = x.masked_fill(~real, 0).sum((0, 1)) / count.clamp_min(1)
        own_var = (x - own_mean).square().masked_fill(~real, 0).sum((0, 1)) / count.clamp_min(1)
        with torch.no_grad():
            # None, set by Lightning's weight averaging, means the mean of all batches.
            momentum = 1 / (1 + tracked) if norm.momentum is None else norm.momentum
            step = torch.where(count > 1, momentum, 0.0)
            mean.lerp_(own_mean, step)
            var.lerp_(own_var * (count / (count - 1).clamp_min(1)), step)
            tracked += count > 1
        mean = torch.where(count > 1, own_mean, mean)
        var = torch.where(count > 1, own_var, var)
    y = (x - mean) * ((var + norm.eps).rsqrt() * norm.weight) + norm.bias
    return y.masked_fill(~real, 0)


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

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map x (I, R, D), zero where the mask (I, R) is False, to the same shape, zero there."""
        count = mask.sum(1).clamp_min(1)[:, None, None]
        affinity = self.theta(x) @ self.phi(x).mT / count  # (I, R, R)
        affinity = affinity.masked_fill(~mask[:, None], 0)  # padding sends nothing
        received = self.out(affinity @ self.g(x))  # (I, R, D)
        return x + masked_batch_norm(self.norm, received, mask)


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
        if region_norm not in ("none", "columns"):
            raise ValueError(f"region_norm must be 'none' or 'columns', got {region_norm!r}")
        self.region_norm = region_norm
        self.project = xavier_(nn.Linear(img_dim, dim))
        self.blocks = nn.ModuleList(GraphBlock(dim) for _ in range(num_gcn))
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.norm = nn.BatchNorm1d(dim) if final_bn else None

    def forward(self, images: Images) -> tuple[Tensor, Tensor]:
        """Compute image vectors (I, D), not normalised yet, and region vectors (I, R, D)."""
        regions, mask, _ = images
        x = full(self.project(regions)).masked_fill(~mask[..., None], 0)  # (I, R, D)
        # Dim 1 is the regions: as in the published weights, each column is normalised over the
        # regions of its image, not each region vector.
        if self.region_norm == "columns":
            x = l2norm(x, dim=1, eps=EPS)
        for block in self.blocks:
            x = block(x, mask)
        x = l2norm(x, dim=1, eps=EPS)
        vector = last_state(self.rnn(x)[0], mask.sum(1))  # (I, D)
        return vector if self.norm is None else batch_norm(self.norm, vector), x
