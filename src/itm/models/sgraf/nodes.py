"""Similarity vectors of SGRAF: what the words of captions find in the regions of images.

Diao, Zhang, Ma, Lu: Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021. The W
words of C captions come in groups of captions of equal length, see `itm.layers.packing`.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from itm.layers.functional import full, full_precision, l2norm
from itm.layers.packing import Packed
from itm.models.sgraf.blocks import real
from itm.utils.devices import block_values

BLOCK = 1 << 21  # values of one (images, words, D) block that a CPU computes at once


@full_precision
def word_attention(scores: Tensor, packed: Packed, temperature: float) -> Tensor:
    """Compute the attention of each word over the regions (equation 2), both (I, R, W).

    The inner products pass a leaky ReLU, are normalised over the words of their caption, and go
    through a softmax over the regions.
    """
    leaky = nn.functional.leaky_relu(full(scores), 0.1)
    groups = zip(leaky.split(packed.sizes, -1), packed.shapes, packed.masks, strict=True)
    unit = [l2norm(real(x.unflatten(-1, shape), mask)).flatten(-2) for x, shape, mask in groups]
    return torch.softmax(temperature * torch.cat(unit, -1), dim=1)


@full_precision
def unit_attention(attention: Tensor, parts: Tensor) -> Tensor:
    """Scale attention (I, R, W) over parts (I, R, D) so that attended vectors have unit norm.

    |sum_r a_r v_r|^2 = a^T G a with the Gram matrix G of the regions, so the D-wide attended
    vectors are not needed.
    """
    gram = parts @ parts.mT  # (I, R, R)
    squares = (attention * (gram @ attention)).sum(1, keepdim=True)  # (I, 1, W)
    positive = squares > 0  # rounding may make a zero vector's square negative
    norm = squares.where(positive, 1.0).sqrt()
    return attention * (positive / (norm + 1e-8))


def similarity_nodes(
    attention: Tensor,
    parts: Tensor,
    words: Tensor,
    linear: nn.Linear,
    shapes: Sequence[tuple[int, int]],
    first: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Compute similarity vectors l2norm(W (c - w)^2 + b), c = attention^T parts (equations 3, 4).

    Args:
        attention: (I, R, W) weights of the parts for each of W words.
        parts: (I, R, D).
        words: (W, D), group after group.
        linear: D -> K.
        shapes: (c, L) of each group of captions; W = sum c L.
        first: (I, C, K) vectors that come before the words of each caption; C = sum c.

    Returns:
        (I, c, L, K) of each group, with `first` (I, c, 1 + L, K); autocast in its lower precision.
    """
    device = parts.device.type
    low = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if low else parts.dtype
    inputs = (attention, parts, words, linear.weight, linear.bias)
    with torch.autocast(device, enabled=False):
        return SimilarityNodes.apply(shapes, first, *(x.to(dtype) for x in inputs))


class SimilarityNodes(torch.autograd.Function):
    """Implement `similarity_nodes` without storing any (I, W, D) tensor.

    The square is quadratic in the attention, so D-wide differences cannot be avoided. They are
    computed in blocks of images, and again for the gradient, which is three times faster than
    storing them. A block is scaled and put in its place while it is in the cache.
    """

    @staticmethod
    def forward(ctx, shapes, first, attention, parts, words, weight, bias):
        """Compute the groups; the last five inputs have the same dtype, and so have the groups."""
        start = 0 if first is None else 1
        nodes = [parts.new_empty(len(parts), c, start + n, len(weight)) for c, n in shapes]
        if first is not None:
            for group, x in zip(nodes, first.split([c for c, _ in shapes], 1), strict=True):
                group[:, :, 0] = x
        norms = full(parts[:0]).new_empty(len(parts), len(words), 1)
        for images, blocks in _blocks(parts, words):
            x = parts.new_empty(len(parts[images]), len(words), len(weight))
            for rows, block in blocks:
                square = _difference(attention[block], parts[block], words).square_()
                torch.addmm(bias, square.flatten(0, 1), weight.T, out=x[rows].flatten(0, 1))
            x, norm = full(x), norms[images]
            torch.linalg.vector_norm(x, dim=-1, keepdim=True, out=norm)
            x.div_(norm + 1e-8)
            for group, vectors in zip(nodes, _by_group(x, shapes), strict=True):
                group[images, :, start:] = vectors
        ctx.save_for_backward(attention, parts, words, weight, norms, *nodes)
        ctx.shapes, ctx.start = shapes, start
        return tuple(nodes)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        """Compute the gradients of all tensors; norms and sums over images are in float32.

        With u = x / (n + eps) of norm n: dx = g / (n + eps) - u (g . u) / n.
        """
        attention, parts, words, weight, norms, *nodes = ctx.saved_tensors
        by_attention, by_parts = torch.empty_like(attention), torch.empty_like(parts)
        by_words, by_weight = torch.zeros_like(full(words)), torch.zeros_like(full(weight))
        by_bias = []
        for images, blocks in _blocks(parts, words):
            norm = norms[images]
            g, u = (norm.new_empty(len(norm), len(words), len(weight)) for _ in range(2))
            for x, groups in ((g, gradients), (u, nodes)):
                for vectors, group in zip(_by_group(x, ctx.shapes), groups, strict=True):
                    vectors.copy_(group[images, :, ctx.start :])
            along = (g * u).sum(-1, keepdim=True) / norm.clamp_min(torch.finfo(norm.dtype).tiny)
            inverse = norm.sign().div_(norm + 1e-8)  # 0 for a zero vector
            g.mul_(inverse).addcmul_(u, along, value=-1)
            by_bias.append(g.sum((0, 1)))
            g = g.to(weight.dtype)
            for rows, block in blocks:
                above = g[rows].flatten(0, 1)  # (i W, K)
                difference = _difference(attention[block], parts[block], words)
                by_weight += above.T @ difference.square().flatten(0, 1)
                difference *= (above @ (2 * weight)).view_as(difference)  # gradient of it
                by_attention[block] = parts[block] @ difference.mT
                by_parts[block] = attention[block] @ difference
                by_words -= difference.sum(0, dtype=by_words.dtype)
        by_first = torch.cat([group[:, :, 0] for group in gradients], 1) if ctx.start else None
        rest = (x.to(words.dtype) for x in (by_words, by_weight, reduce(torch.add, by_bias)))
        return None, by_first, by_attention, by_parts, *rest


def _blocks(parts: Tensor, words: Tensor) -> list[tuple[slice, list[tuple[slice, slice]]]]:
    """Cut the images into slices for similarity vectors, and these into slices for differences.

    Differences (i, W, D) have about `BLOCK` values. The vectors made from them are scaled at once:
    on a CPU while they are in the cache, on a GPU all of them, because each kernel costs a launch.

    Returns:
        Slices of the images; for each a list of (slice of it, slice of the images).
    """
    step = max(1, block_values(words.device, BLOCK) // max(1, words.numel()))
    wide = step if words.device.type == "cpu" else max(1, len(parts))
    return [
        (
            slice(start, start + wide),
            [
                (slice(i - start, i - start + step), slice(i, i + step))
                for i in range(start, min(start + wide, len(parts)), step)
            ],
        )
        for start in range(0, len(parts), wide)
    ]


def _by_group(x: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """View (i, W, K) as (i, c, L, K) of each group."""
    rows = x.split([c * n for c, n in shapes], 1)
    return [y.unflatten(1, shape) for y, shape in zip(rows, shapes, strict=True)]


def _difference(attention: Tensor, parts: Tensor, words: Tensor) -> Tensor:
    """Compute attention^T parts - words: (i, R, W), (i, R, D), (W, D) -> (i, W, D)."""
    if words.device.type == "cpu":  # where baddbmm copies the words for each image first
        return (attention.mT @ parts).sub_(words)
    return torch.baddbmm(words.expand(len(parts), -1, -1), attention.mT, parts, beta=-1)
