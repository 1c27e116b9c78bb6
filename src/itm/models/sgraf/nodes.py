"""Similarity vectors of SGRAF: what the words of captions find in the regions of images.

Diao, Zhang, Ma, Lu: Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021. A pair
of an image and a caption of L words is a set of n = L + 1 nodes, each a similarity vector of width
K; node 0 compares the global vectors. The W words of C captions come in groups of captions of equal
length, or a mask marks the real words of a group, see `itm.layers.packing`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from itm.layers.functional import for_products, full
from itm.utils.devices import block_values

EPS = 1e-8  # added to norms
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
        for images in scaled_blocks(parts, words):
            x = parts.new_empty(len(parts[images]), len(words), len(weight))
            project(attention[images], parts[images], words, weight, bias, out=x)
            x, norm = full(x), norms[images]
            torch.linalg.vector_norm(x, dim=-1, keepdim=True, out=norm)
            x.div_(norm + EPS)
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
        found = gradients_of(attention, parts, words, weight)
        for images in scaled_blocks(parts, words):
            norm = norms[images]
            g, u = (norm.new_empty(len(norm), len(words), len(weight)) for _ in range(2))
            for x, groups in ((g, gradients), (u, nodes)):
                for vectors, group in zip(_by_group(x, ctx.shapes), groups, strict=True):
                    vectors.copy_(group[images, :, ctx.start :])
            along = (g * u).sum(-1, keepdim=True) / norm.clamp_min(torch.finfo(norm.dtype).tiny)
            inverse = norm.sign().div_(norm + EPS)  # 0 for a zero vector
            g.mul_(inverse).addcmul_(u, along, value=-1)
            add_gradients(g.to(weight.dtype), images, (attention, parts, words, weight), found)
        by_first = torch.cat([group[:, :, 0] for group in gradients], 1) if ctx.start else None
        return None, by_first, *(x.to(words.dtype) for x in found)


def image_blocks(parts: Tensor, words: Tensor) -> list[slice]:
    """Cut I images into slices whose differences (i, W, D) have about `BLOCK` values."""
    step = max(1, block_values(words.device, BLOCK) // max(1, words.numel()))
    return [slice(i, min(i + step, len(parts))) for i in range(0, len(parts), step)]


def scaled_blocks(parts: Tensor, words: Tensor) -> list[slice]:
    """Cut I images into slices whose similarity vectors (i, W, K) are scaled at once.

    On a CPU while they are in the cache; elsewhere all of them, because each kernel costs a launch.
    """
    cpu = words.device.type == "cpu"
    return image_blocks(parts, words) if cpu else [slice(0, len(parts))]


def project(
    attention: Tensor, parts: Tensor, words: Tensor, weight: Tensor, bias: Tensor, out: Tensor
) -> None:
    """Compute W (c - w)^2 + b, c = attention^T parts, into `out` (i, W, K)."""
    for rows in image_blocks(parts, words):
        square = difference(attention[rows], parts[rows], words).square_()
        torch.addmm(bias, square.flatten(0, 1), weight.T, out=out[rows].flatten(0, 1))


def _by_group(x: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """View (i, W, K) as (i, c, L, K) of each group."""
    rows = x.split([c * n for c, n in shapes], 1)
    return [y.unflatten(1, shape) for y, shape in zip(rows, shapes, strict=True)]


def difference(attention: Tensor, parts: Tensor, words: Tensor) -> Tensor:
    """Compute c - w, c = attention^T parts: (i, R, W), (i, R, D), (W, D) -> (i, W, D)."""
    if words.device.type == "cpu":  # where baddbmm copies the words for each image first
        return (attention.mT @ parts).sub_(words)
    return torch.baddbmm(words.expand(len(parts), -1, -1), attention.mT, parts, beta=-1)


class Gradients(NamedTuple):
    """Gradients of the inputs of W (c - w)^2 + b, c = attention^T parts; the last three are sums.

    Attributes:
        attention: (I, R, W).
        parts: (I, R, D).
        words: (W, D), in at least float32, as the weight and the bias.
        weight: (K, D).
        bias: (K,).
    """

    attention: Tensor
    parts: Tensor
    words: Tensor
    weight: Tensor
    bias: Tensor


def gradients_of(attention: Tensor, parts: Tensor, words: Tensor, weight: Tensor) -> Gradients:
    """Allocate what `add_gradients` fills."""
    dtype = torch.promote_types(words.dtype, torch.float32)
    sums = (torch.zeros_like(x, dtype=dtype) for x in (words, weight, weight[:, 0]))
    return Gradients(torch.empty_like(attention), torch.empty_like(parts), *sums)


def add_gradients(
    above: Tensor, images: slice, inputs: tuple[Tensor, Tensor, Tensor, Tensor], found: Gradients
) -> None:
    """Add the gradients that come from some images.

    Args:
        above: (i, W, K) gradient of W (c - w)^2 + b.
        images: the i images.
        inputs: attention (I, R, W), parts (I, R, D), words (W, D), weight (K, D).
        found: their gradients, and that of the bias.
    """
    attention, parts, words, weight = inputs
    found.bias.add_(above.sum((0, 1), dtype=found.bias.dtype))
    for rows in image_blocks(parts[images], words):
        flat = above[rows].flatten(0, 1)  # (rows W, K)
        block = slice(images.start + rows.start, images.start + rows.stop)
        delta = difference(attention[block], parts[block], words)
        found.weight.add_(flat.T @ delta.square().flatten(0, 1))
        delta *= (flat @ (2 * weight)).view_as(delta)  # gradient of it
        found.attention[block] = parts[block] @ delta.mT
        found.parts[block] = attention[block] @ delta
        found.words.sub_(delta.sum(0, dtype=found.words.dtype))
