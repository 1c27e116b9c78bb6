"""Batch norm over the real rows of a padded batch, and over batches of a single row."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


@full_precision
def masked_batch_norm(
    norm: nn.BatchNorm1d, x: Tensor, mask: Tensor, biased: bool = False
) -> Tensor:
    """Apply `batch_norm` to the rows of x (I, R, D) where mask (I, R) is True; zero elsewhere.

    Selecting these rows would wait for the device to count them and cannot be compiled. Only for
    statistics over several processes, torch's own layer is used, which needs the selection.

    Args:
        norm: the layer.
        x: (I, R, D).
        mask: (I, R).
        biased: track the biased variance, as TensorFlow does.
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
            tracked_var = own_var if biased else own_var * (count / (count - 1).clamp_min(1))
            var.lerp_(tracked_var, step)
            tracked += count > 1
        mean = torch.where(count > 1, own_mean, mean)
        var = torch.where(count > 1, own_var, var)
    y = (x - mean) * ((var + norm.eps).rsqrt() * norm.weight) + norm.bias
    return y.masked_fill(~real, 0)
