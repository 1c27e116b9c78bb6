"""Batch norm over the real rows of a padded batch, and over batches of a single row."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from itm.layers.functional import full, full_precision


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


class Rows(NamedTuple):
    """What batch norms over the real rows of a batch share.

    Attributes:
        hole: (I, R, 1) True = padding; None = there is none, as far as the host knows.
        several: whether there are at least two real rows.
        number: of real rows, at least 1.
        share: 1 / number, or 0 for a single row, which the running statistics normalise.
        unbias: number / (number - 1), of the unbiased variance.
    """

    hole: Tensor | None
    several: Tensor
    number: Tensor
    share: Tensor
    unbias: Tensor


def count_rows(mask: Tensor, dtype: torch.dtype) -> Rows:
    """Count the real rows of a mask (I, R), in the type of the norms' inputs."""
    # Only a mask on the host can be looked at without waiting.
    known = mask.device.type == "cpu" and not torch.compiler.is_compiling()
    hole = None if known and bool(mask.all()) else ~mask[..., None]
    count = mask.sum(dtype=dtype).clamp_min(1)
    several = count > 1
    return Rows(hole, several, count, several / count, count / (count - 1).clamp_min(1))


@full_precision
def masked_batch_norm(
    norm: nn.BatchNorm1d,
    x: Tensor,
    mask: Tensor,
    biased: bool = False,
    rows: Rows | None = None,
) -> Tensor:
    """Apply `batch_norm` to the rows of x (I, R, D) where mask (I, R) is True; zero elsewhere.

    Selecting these rows would wait for the device to count them and cannot be compiled. Only for
    statistics over several processes, torch's own layer is used, which needs the selection.

    Args:
        norm: the layer.
        x: (I, R, D).
        mask: (I, R).
        biased: track the biased variance, as TensorFlow does.
        rows: from `count_rows`, for several norms with one mask; None = counted here.
    """
    x = full(x)
    if norm.training and isinstance(norm, nn.SyncBatchNorm):
        y = torch.zeros_like(x)
        y[mask] = norm(x[mask])
        return y
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None and norm.num_batches_tracked is not None
    if not norm.training:
        y = (x - mean) * ((var + norm.eps).rsqrt() * norm.weight) + norm.bias
        return y.masked_fill(~mask[..., None], 0)
    rows = rows or count_rows(mask, x.dtype)
    y, own_mean, own_var = NormaliseRows.apply(x, rows, norm.weight, norm.bias, mean, var, norm.eps)
    _track(norm, own_mean, own_var if biased else own_var * rows.unbias, rows.several)
    return y


@torch.no_grad()
def _track(norm: nn.BatchNorm1d, own_mean: Tensor, own_var: Tensor, several: Tensor) -> None:
    """Update the running statistics, unless there is a single row."""
    mean, var, tracked = norm.running_mean, norm.running_var, norm.num_batches_tracked
    assert mean is not None and var is not None and tracked is not None
    # None, set by Lightning's weight averaging, means the mean of all batches.
    weigh = 1 / (1 + tracked.to(mean.dtype)) if norm.momentum is None else norm.momentum
    step = several.to(mean.dtype) * weigh
    mean.lerp_(own_mean, step)
    var.lerp_(own_var.to(var.dtype), step.to(var.dtype))
    tracked += several


class NormaliseRows(torch.autograd.Function):
    """Implement `masked_batch_norm` in training with few kernels and few copies of x.

    With n real rows, centred rows c, s = 1 / sqrt(var + eps) and the gradient g of the real rows:
    dx = s w (g - sum(g) / n - c s^2 sum(g c) / n). For a single row, the running statistics
    normalise, and dx = s w g.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rows: Rows,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the normalised rows, and mean and variance of the batch."""
        hole = rows.hole
        filled = x if hole is None else x.masked_fill(hole, 0)
        own_mean = filled.sum((0, 1)) / rows.number
        centred = filled - torch.where(rows.several, own_mean, running_mean)
        if hole is not None:
            centred.masked_fill_(hole, 0)
        own_var = centred.square().sum((0, 1)) / rows.number
        inverse = (torch.where(rows.several, own_var, running_var) + eps).rsqrt()
        scale = inverse * weight
        y = torch.addcmul(bias, centred, scale)
        if hole is not None:
            y.masked_fill_(hole, 0)
        ctx.save_for_backward(centred, inverse, scale, hole, rows.share)
        ctx.mark_non_differentiable(own_mean, own_var)
        ctx.set_materialize_grads(False)
        return y, own_mean, own_var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        centred, inverse, scale, hole, share = ctx.saved_tensors
        if hole is not None:
            gradient = gradient.masked_fill(hole, 0)
        by_bias = gradient.sum((0, 1))
        by_weight = (gradient * centred).sum((0, 1)) * inverse
        by_x = torch.addcmul(gradient, by_bias, share, value=-1)
        by_x.addcmul_(centred, by_weight * inverse * share, value=-1).mul_(scale)
        if hole is not None:
            by_x.masked_fill_(hole, 0)
        return by_x, None, by_weight, by_bias, None, None, None
