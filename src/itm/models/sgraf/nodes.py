"""Similarity vectors of SGRAF: what the words of captions find in the regions of images.

Diao, Zhang, Ma, Lu: Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021. A pair
of an image and a caption of L words is a set of n = L + 1 nodes, each a similarity vector of width
K; node 0 compares the global vectors. The W words of C captions come in groups of captions of equal
length, or a mask marks the real words of a group, see `itm.layers.packing`.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from itm.layers.functional import for_products, full
from itm.utils.devices import block_values

BLOCK = 1 << 21  # values of one (images, words, D) block that a CPU computes at once


def real(x: Tensor, mask: Tensor | None, value: float = 0.0) -> Tensor:
    """Replace padding by `value`; the mask broadcasts to x, None = no padding."""
    return x if mask is None else x.masked_fill(~mask, value)


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
    inputs = [for_products(x) for x in (attention, parts, words, linear.weight, linear.bias)]
    with torch.autocast(parts.device.type, enabled=False):
        return SimilarityNodes.apply(shapes, first, *inputs)


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
                square = difference(attention[block], parts[block], words).square_()
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
        inputs, by_bias = (attention, parts, words, weight), []
        found = gradients_of(inputs)
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
                add_gradients(g[rows], block, inputs, found)
        by_first = torch.cat([group[:, :, 0] for group in gradients], 1) if ctx.start else None
        bias = reduce(torch.add, by_bias).to(weight.dtype)
        return None, by_first, *(x.to(words.dtype) for x in found), bias


def image_blocks(parts: Tensor, words: Tensor) -> list[slice]:
    """Cut I images into slices whose differences (i, W, D) have about `BLOCK` values."""
    step = max(1, block_values(words.device, BLOCK) // max(1, words.numel()))
    return [slice(i, min(i + step, len(parts))) for i in range(0, len(parts), step)]


def _blocks(parts: Tensor, words: Tensor) -> list[tuple[slice, list[tuple[slice, slice]]]]:
    """Cut the images into slices for similarity vectors, and these into slices for differences.

    Differences (i, W, D) have about `BLOCK` values. The vectors made from them are scaled at once:
    on a CPU while they are in the cache, on a GPU all of them, because each kernel costs a launch.

    Returns:
        Slices of the images; for each a list of (slice of it, slice of the images).
    """
    whole = [slice(0, max(1, len(parts)))]
    return [
        (wide, [(slice(i.start - wide.start, i.stop - wide.start), i) for i in cut])
        for wide, cut in (
            [(i, [i]) for i in image_blocks(parts, words)]
            if words.device.type == "cpu"
            else [(whole[0], image_blocks(parts, words))]
        )
    ]


def _by_group(x: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """View (i, W, K) as (i, c, L, K) of each group."""
    rows = x.split([c * n for c, n in shapes], 1)
    return [y.unflatten(1, shape) for y, shape in zip(rows, shapes, strict=True)]


def difference(attention: Tensor, parts: Tensor, words: Tensor) -> Tensor:
    """Compute c - w, c = attention^T parts: (i, R, W), (i, R, D), (W, D) -> (i, W, D)."""
    if words.device.type == "cpu":  # where baddbmm copies the words for each image first
        return (attention.mT @ parts).sub_(words)
    return torch.baddbmm(words.expand(len(parts), -1, -1), attention.mT, parts, beta=-1)


Inputs = tuple[Tensor, Tensor, Tensor, Tensor]  # attention, parts, words, weight


def gradients_of(inputs: Inputs) -> Inputs:
    """Allocate what `add_gradients` fills; sums over images in float32."""
    attention, parts, words, weight = inputs
    by_words, by_weight = (torch.zeros_like(full(x)) for x in (words, weight))
    return torch.empty_like(attention), torch.empty_like(parts), by_words, by_weight


def add_gradients(above: Tensor, images: slice, inputs: Inputs, found: Inputs) -> None:
    """Add the gradients of W (c - w)^2 for some images.

    Args:
        above: (i, W, K) gradient of the result.
        images: the i images.
        inputs: attention (I, R, W), parts (I, R, D), words (W, D), weight (K, D).
        found: their gradients, from `gradients_of`.
    """
    attention, parts, words, weight = inputs
    by_attention, by_parts, by_words, by_weight = found
    flat = above.flatten(0, 1)  # (i W, K)
    delta = difference(attention[images], parts[images], words)
    by_weight += flat.T @ delta.square().flatten(0, 1)
    delta *= (flat @ (2 * weight)).view_as(delta)  # gradient of it
    by_attention[images] = parts[images] @ delta.mT
    by_parts[images] = attention[images] @ delta
    by_words -= delta.sum(0, dtype=by_words.dtype)
