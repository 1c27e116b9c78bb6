"""Attention of SGRAF: how strongly each word of a caption attends to each region of an image.

Diao, Zhang, Ma, Lu: Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021. The W
words of C captions come in groups of captions of equal length, or a mask marks the real words of a
group, see `itm.layers.packing`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import leaky_relu

from itm.layers.functional import full, full_precision, l2norm
from itm.layers.packing import Packed
from itm.models.sgraf.nodes import EPS, real

BLOCK = 1 << 18  # values (images, R, W) computed at once
SLOPE = 0.1  # of the leaky ReLU


@full_precision
def word_attention(scores: Tensor, packed: Packed, temperature: float) -> Tensor:
    """Compute the attention of each word over the regions (equation 2), both (I, R, W).

    The inner products pass a leaky ReLU, are normalised over the words of their caption, and go
    through a softmax over the regions.
    """
    leaky = leaky_relu(full(scores), SLOPE)
    groups = zip(_groups(leaky, packed), packed.masks, strict=True)
    unit = [l2norm(real(x, mask)).flatten(-2) for x, mask in groups]
    return torch.softmax(temperature * torch.cat(unit, -1), dim=1)


def unit_attention(scores: Tensor, parts: Tensor, packed: Packed, temperature: float) -> Tensor:
    """Compute `word_attention` (I, R, W), scaled so that attended vectors have unit length.

    |sum_r a_r v_r|^2 = a^T G a with the Gram matrix G of the regions, so the D-wide attended
    vectors are not needed. Autocast gives the weights in its lower precision.

    Args:
        scores: (I, R, W) inner products of regions and words.
        parts: (I, R, D) regions v.
        packed: the words.
        temperature: factor before the softmax.
    """
    device = scores.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else scores.dtype
    with torch.autocast(device, enabled=False):
        if device == "cpu":
            return UnitAttention.apply(scores, full(parts), packed, temperature, dtype)
        weights = word_attention(scores, packed, temperature)
        return (weights * _scale(weights, _gram(full(parts)) @ weights)[0]).to(dtype)


class UnitAttention(torch.autograd.Function):
    """Implement `unit_attention` on a CPU without storing any intermediate (I, R, W) tensor.

    Every step is bound by memory, so a block of images stays in the cache for all of them, and is
    computed again for the gradient. On other devices the kernels of that would cost more.
    """

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        parts: Tensor,
        packed: Packed,
        temperature: float,
        dtype: torch.dtype,
    ) -> Tensor:
        """Compute the weights in float32 and store them as `dtype`."""
        found = torch.empty_like(scores, dtype=dtype)
        for rows in _blocks(scores):
            weights = _attend(full(scores[rows]), packed, temperature)[-1]
            scale = _scale(weights, _gram(parts[rows]) @ weights)[0]
            found[rows] = weights.mul_(scale)
        ctx.save_for_backward(scores, parts)
        ctx.packed, ctx.temperature = packed._replace(words=scores.new_empty(0)), temperature
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of scores and parts, computed in float32."""
        scores, parts = ctx.saved_tensors
        by_scores, by_parts = torch.empty_like(scores), torch.empty_like(parts)
        for rows in _blocks(scores):
            unit, norms, weights = _attend(full(scores[rows]), ctx.packed, ctx.temperature)
            across = _gram(parts[rows]) @ weights
            scale, norm = _scale(weights, across)
            g = full(gradient[rows])
            # Twice the gradient of a^T G a, whose own gradients are 2 G a and 2 a a^T V.
            square = (g * weights).sum(1, keepdim=True) * scale.square() / -norm
            by_parts[rows] = ((weights * square) @ weights.mT) @ parts[rows]
            g = (g * scale).addcmul_(across, square)
            g.sub_((g * weights).sum(1, keepdim=True)).mul_(weights).mul_(ctx.temperature)
            sides = _groups(g, ctx.packed), _groups(unit, ctx.packed), norms, ctx.packed.masks
            for x, y, n, mask in zip(*sides, strict=True):
                along = (x * y).sum(-1, keepdim=True) / n.clamp_min(torch.finfo(n.dtype).tiny)
                x.mul_(n.sign() / (n + EPS)).addcmul_(y, along, value=-1)
                if mask is not None:
                    x.masked_fill_(~mask, 0)
            by_scores[rows] = torch.ops.aten.leaky_relu_backward(g, unit, SLOPE, True)
        return by_scores, by_parts, None, None, None


def _attend(
    scores: Tensor, packed: Packed, temperature: float
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Compute scores of unit length (i, R, W), the lengths (i, R, c, 1) per group, and weights."""
    unit, norms = leaky_relu(scores, SLOPE), []
    for x, mask in zip(_groups(unit, packed), packed.masks, strict=True):
        if mask is not None:
            x.masked_fill_(~mask, 0)
        norms.append(torch.linalg.vector_norm(x, dim=-1, keepdim=True))
        x.div_(norms[-1] + EPS)
    return unit, norms, torch.softmax(temperature * unit, dim=1)


def _scale(weights: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
    """Compute 1 / (n + eps), 0 for n = 0, and n = sqrt(a^T G a) from a and G a; all (i, 1, W)."""
    squares = (weights * across).sum(1, keepdim=True)
    positive = squares > 0  # rounding may make a zero vector's square negative
    norm = squares.where(positive, 1.0).sqrt()
    return positive / (norm + EPS), norm


def _gram(parts: Tensor) -> Tensor:
    return parts @ parts.mT  # (i, R, R)


def _groups(x: Tensor, packed: Packed) -> Iterator[Tensor]:
    """View (i, R, W) as (i, R, c, L) of each group."""
    groups = zip(x.split(packed.sizes, -1), packed.shapes, strict=True)
    return (group.unflatten(-1, shape) for group, shape in groups)


def _blocks(scores: Tensor) -> list[slice]:
    """Cut the images into slices."""
    step = max(1, BLOCK // max(1, scores[:1].numel()))
    return [slice(i, min(i + step, len(scores))) for i in range(0, len(scores), step)]
