"""Compute cross attention from products of vectors, without forming the attended vectors.

Shapes follow `Block`: N contexts of P parts with M groups of Q queries.
"""

import math
from collections.abc import Iterator
from itertools import repeat
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from itm.layers.functional import full, masked_softmax

RAW_NORMS = (
    "clipped_l2norm",
    "l2norm",
    "clipped_l1norm",
    "l1norm",
    "softmax",
    "clipped",
    "no_norm",
)
UNBOUNDED = ("clipped", "no_norm")  # raw norms whose values may exceed 1
AGGREGATIONS = ("LogSumExp", "Mean", "Max", "Sum")
EPS = 1e-8
# exp(10) and exp(-10) stay within float32 when squared, and when cubed in the gradient of a root.
SAFE_EXPONENT = 10.0


class Block(NamedTuple):
    """The pairs of N contexts of P parts with M groups of Q queries.

    In "t2i" a context is an image (P = R) and the queries are the words of M captions (Q = L); in
    "i2t" a context is a caption (P = L) and the queries are the regions of M images (Q = R).
    """

    products: Tensor  # (N, P, M, Q) S
    gram: Tensor  # (N, P, P) of the contexts
    length: Tensor  # (M, Q) lengths of the queries
    context_mask: Tensor | None  # (N, P), None = all real
    query_mask: Tensor | None  # (M, Q), None = all real


def cut(block: Block, values: int) -> Iterator[Block]:
    """Cut a block along its contexts into pieces of about `values` values of S each."""
    step = max(1, values // max(1, block.products[0].numel()))
    for products, gram, mask in split(step, block.products, block.gram, block.context_mask):
        yield Block(products, gram, block.length, mask, block.query_mask)


def split(step: int, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Split several tensors alike, `step` rows at a time; None stays None."""
    return zip(*(repeat(None) if x is None else x.split(step) for x in tensors), strict=False)


def gram(parts: Tensor) -> Tensor:
    """Compute the Gram matrix of each context's parts, (N, P, D) -> (N, P, P)."""
    return full(parts) @ full(parts).mT


def logits(
    products: Tensor,
    raw_norm: str,
    temperature: float,
    context_mask: Tensor | None = None,
    query_mask: Tensor | None = None,
) -> Tensor:
    """Compute the input of the softmax over the context: temperature x raw_norm(S).

    The norm is taken along the queries.

    Args:
        products: (N, P, M, Q) S.
        raw_norm: one of `RAW_NORMS`; "clipped" applies LeakyReLU(0.1) first.
        temperature: factor on the normalised products.
        context_mask: (N, P), None = all real; the result is -inf at padding.
        query_mask: broadcasts to (N, P, M, Q), None = all real; the norm ignores padding.

    Returns:
        (N, P, M, Q).
    """
    x = products if query_mask is None else products.masked_fill(~query_mask, 0.0)
    x = F.leaky_relu(x, 0.1) if raw_norm.startswith("clipped") else x
    if raw_norm in UNBOUNDED:
        x = temperature * x
    elif raw_norm == "softmax":
        if query_mask is None:
            x = temperature * torch.softmax(x, -1)
        else:  # zeros, not NaN, for an image without regions
            x = temperature * masked_softmax(x, query_mask)
    else:
        order = 1 if raw_norm.endswith("l1norm") else 2
        size = torch.linalg.vector_norm(x, order, dim=-1, keepdim=True)
        # A zero row stays zero and gets a zero gradient.
        x = x * torch.where(size > 0, temperature / (size + EPS), 0.0)
    if context_mask is None:
        return x
    return x.masked_fill(~context_mask[:, :, None, None], float("-inf"))


def attend(
    products: Tensor,
    raw_norm: str,
    temperature: float,
    context_mask: Tensor | None = None,
    query_mask: Tensor | None = None,
) -> Tensor:
    """Compute the attention p (N, P, M, Q) of every query to its context; see `logits`."""
    x = logits(products, raw_norm, temperature, context_mask, query_mask)
    if context_mask is None:
        return torch.softmax(x, 1)
    return masked_softmax(x, context_mask[:, :, None, None], 1)


def attend_unscaled(block: Block, raw_norm: str, temperature: float) -> tuple[Tensor, float]:
    """Compute the attention up to a positive factor per query, which a cosine ignores.

    If it cannot overflow, a plain exponential replaces the softmax and saves its other passes.

    Returns:
        (N, P, M, Q), and a lower bound of the sum over the context for any query.
    """
    options = (raw_norm, temperature, block.context_mask, block.query_mask)
    if raw_norm in UNBOUNDED or abs(temperature) > SAFE_EXPONENT:
        return attend(block.products, *options), 1.0
    return logits(block.products, *options).exp(), math.exp(-abs(temperature))


def attended_cosine(p: Tensor, block: Block, least: float = 1.0) -> Tensor:
    """Compute r = cos(q, sum_k p_k context_k), (N, M, Q); 0 if either vector is zero.

    Args:
        p: (N, P, M, Q) attention, up to a positive factor per query.
        block: the pairs.
        least: lower bound of the sum of p over a context; scales the threshold below which a
            vector counts as zero.
    """
    dot = (p * block.products).sum(1)
    spread = torch.bmm(block.gram, p.flatten(2)).view_as(p)  # G p
    square = (p * spread).sum(1)  # |c|^2
    lengths = block.length.square() * square  # |q|^2 |c|^2
    return dot * lengths.masked_fill(lengths <= (EPS * least) ** 2, float("inf")).rsqrt()


def aggregate(
    r: Tensor, aggregation: str, lambda_lse: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Aggregate over the real queries (last dimension) by one of `AGGREGATIONS`.

    The result is 0 without a real query, as for an image without regions.
    """
    if aggregation in ("Mean", "Sum"):
        if mask is None:
            return r.mean(-1) if aggregation == "Mean" else r.sum(-1)
        total = r.masked_fill(~mask, 0.0).sum(-1)
        return total / mask.sum(-1).clamp_min(1) if aggregation == "Mean" else total
    if mask is None:
        return _peak(r, aggregation, lambda_lse)
    none = ~mask.any(-1, keepdim=True)  # a peak over -inf only would have no gradient
    r = r.masked_fill(~(mask | none), float("-inf"))
    return _peak(r, aggregation, lambda_lse).masked_fill(none.squeeze(-1), 0.0)


def _peak(r: Tensor, aggregation: str, lambda_lse: float) -> Tensor:
    return r.amax(-1) if aggregation == "Max" else torch.logsumexp(lambda_lse * r, -1) / lambda_lse
