"""Filtration of the similarity vectors of a pair to one vector (SAF).

Diao, Zhang, Ma, Lu: Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021, section
3.4. A pair of an image and a caption of L words is a set of n = L + 1 nodes, each a similarity
vector of width K; node 0 compares the global vectors. Captions come in groups of equal length, or a
mask marks the real words.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, pad

from itm.layers.functional import for_products, full, full_precision, l2norm, xavier_
from itm.layers.packing import Packed
from itm.models.sgraf.nodes import (
    EPS,
    add_gradients,
    gradients_of,
    image_blocks,
    project,
    real,
)

Gates = Callable[..., tuple[Tensor, Tensor]]


class AttentionFiltration(nn.Module):
    """SAF (section 3.4): weighted mean of nodes, sigmoid(t) / sum(sigmoid(t)), t = BN(w . x + b).

    In training each caption is normalised by the mean and variance over its nodes with all images
    of the batch, and updates the running statistics once, longest caption first.

    Args:
        sim_dim: width K.
    """

    def __init__(self, sim_dim: int):
        super().__init__()
        self.attend = xavier_(nn.Linear(sim_dim, 1))
        self.norm = nn.BatchNorm1d(1)

    def reducer(self) -> Callable[[Tensor, Tensor | None], Tensor]:
        """Return `forward`, since there is nothing that groups of nodes share."""
        return self

    def forward(self, nodes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Reduce the nodes (I, C, n, K) of each pair to one vector (I, C, K); mask (C, n).

        The weights are computed in float32 and multiplied in the nodes' precision.
        """
        weights = self.weights(nodes, self.training, mask).to(nodes.dtype)
        return l2norm((weights[..., None, :] @ nodes).squeeze(-2))

    def in_blocks(
        self, first: Tensor, attention: Tensor, parts: Tensor, packed: Packed, linear: nn.Linear
    ) -> Tensor:
        """Compute the nodes of all pairs on a CPU and reduce them to vectors (I, C, K).

        Args:
            first: (I, C, K) node 0 of each pair.
            attention: (I, R, W) weights of the parts for each of W words.
            parts: (I, R, D).
            packed: the words (W, D) of C captions.
            linear: D -> K, makes similarity vectors as `itm.models.sgraf.nodes.similarity_nodes`.
        """

        def gates(first: Tensor, rest: Tensor, *learnt: Tensor) -> tuple[Tensor, Tensor]:
            return self._gates(first, rest, packed, *learnt)

        learnt = self.attend.bias, self.norm.weight, self.norm.bias
        sizes = torch.tensor([size for count, size in packed.shapes for _ in range(count)])
        inputs = [first, attention, parts, packed.words, linear.weight, linear.bias]
        low = [for_products(x) for x in (*inputs, self.attend.weight[0])]
        with torch.autocast(parts.device.type, enabled=False):
            keep = torch.is_grad_enabled()
            pooled = Filtration.apply(gates, sizes, keep, self.training, *low, *learnt)
        return l2norm(pooled)

    def _gates(
        self, first: Tensor, rest: Tensor, packed: Packed, offset: Tensor, *affine: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Turn w . x of the global nodes (I, C) and of the words' (I, W) into weights of nodes.

        In training the groups, longest captions first, update the norm's statistics in turn.
        """
        found, counts = [], [count for count, _ in packed.shapes]
        groups = zip(first.split(counts, 1), rest.split(packed.sizes, 1), strict=True)
        for (zero, words), shape, mask in zip(groups, packed.shapes, packed.masks, strict=True):
            raw = torch.cat([zero[..., None], words.unflatten(1, shape)], -1) + offset
            mask = None if mask is None else pad(mask, (1, 0), value=True)
            found.append(self._weights(raw, self.training, mask, *affine))
        sides = [x.split([1, x.shape[-1] - 1], -1) for x in found]
        zero, words = ([side[k].flatten(1) for side in sides] for k in (0, 1))
        return torch.cat(zero, 1), torch.cat(words, 1)

    def weights(self, nodes: Tensor, training: bool = False, mask: Tensor | None = None) -> Tensor:
        """Compute the weight of each node: (I, C, n, K) -> (I, C, n), sums to 1; mask (C, n)."""
        raw = self.attend(nodes).squeeze(-1)
        return self._weights(raw, training, mask, self.norm.weight, self.norm.bias)

    @full_precision
    def _weights(
        self, raw: Tensor, training: bool, mask: Tensor | None, scale: Tensor, shift: Tensor
    ) -> Tensor:
        raw, norm = full(raw), self.norm  # (I, C, n)
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None  # the norm tracks them
        if training and mask is None:
            variance, mean = torch.var_mean(raw, (0, 2), correction=0, keepdim=True)  # (1, C, 1)
            self._track(mean.flatten(), variance.flatten(), raw.numel() // max(1, raw.shape[1]))
        elif training:
            assert mask is not None
            count = len(raw) * mask.sum(1)[None, :, None]  # (1, C, 1)
            mean = real(raw, mask).sum((0, 2), keepdim=True) / count
            variance = real((raw - mean).square(), mask).sum((0, 2), keepdim=True) / count
            self._track(mean.flatten(), variance.flatten(), count.flatten())
        scaled = (raw - mean) * (variance + norm.eps).rsqrt() * scale + shift
        gate = real(scaled.sigmoid(), mask)
        return gate / (gate.sum(-1, keepdim=True) + 1e-8)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int | Tensor) -> None:
        """Apply C updates r <- (1 - m) r + m s_c in row order, in closed form; s (C,), m = 0.1.

        r_C = (1 - m)^C r_0 + sum_c m (1 - m)^(C - 1 - c) s_c, with the unbiased variance. With
        momentum None, as Lightning's weight averaging sets it, r is the mean of all statistics.
        """
        momentum, size, tracked = self.norm.momentum, len(mean), self.norm.num_batches_tracked
        assert tracked is not None
        kept: Tensor | float
        if momentum is None:
            share = 1 / (tracked + size).to(mean.dtype)
            kept = tracked * share
        else:
            later = torch.arange(size - 1, -1, -1, dtype=mean.dtype, device=mean.device)
            kept, share = (1 - momentum) ** size, momentum * (1 - momentum) ** later
        statistics = {"running_mean": mean, "running_var": variance * count / (count - 1)}
        for name, values in statistics.items():
            running = getattr(self.norm, name)
            running.mul_(kept).add_((share * values).sum())
        tracked += size


class Filtration(torch.autograd.Function):
    """Compute nodes x_n = W (c_n - w_n)^2 + b of all words on a CPU, and each pair's weighted sum.

    A pair's vector is gate_0 x_0 + sum_n gate_n x_n / (|x_n| + eps), x_0 its global node. The gates
    depend on the scalars w . x_n / (|x_n| + eps) only, so the gradient of x_n is a linear
    combination of three vectors: one per pair, one for all nodes, and x_n. It is made in the cache,
    block by block, and used at once; neither unit nodes nor gradients of nodes are stored.
    """

    @staticmethod
    def forward(
        ctx: Any,
        gates: Gates,
        sizes: Tensor,
        keep: bool,
        together: bool,
        first: Tensor,
        attention: Tensor,
        parts: Tensor,
        words: Tensor,
        weight: Tensor,
        bias: Tensor,
        attend: Tensor,
        *learnt: Tensor,
    ) -> Tensor:
        """Compute the pairs' vectors (I, C, K), captions in the order of their words.

        Args:
            ctx: autograd context.
            gates: computes the gates of the global nodes (I, C) and of the words (I, W) from
                w . node and `learnt`; autograd differentiates it.
            sizes: (C,) number of words of each caption.
            keep: whether to keep what `backward` needs.
            together: `gates` needs all images at once.
            first: (I, C, K) global nodes, of unit length.
            attention: (I, R, W).
            parts: (I, R, D).
            words: (W, D).
            weight: (K, D).
            bias: (K,).
            attend: (K,), the w above.
            *learnt: parameters of the gates.
        """
        pooled = torch.empty_like(first)
        # Aliases, because the gradients of the parameters, and their hooks, are the outer graph's.
        learnt = tuple(y.detach().requires_grad_(keep) for y in learnt)
        whole = [slice(0, len(parts))]
        for images in whole if together or keep else image_blocks(parts, words):
            x = parts.new_empty(len(parts[images]), len(words), len(weight))  # (i, W, K)
            length, raw = (full(parts[:0]).new_empty(x.shape[:2]) for _ in range(2))
            sides = attention[images], parts[images]
            for rows in image_blocks(sides[1], words):
                project(sides[0][rows], sides[1][rows], words, weight, bias, out=x[rows])
                torch.linalg.vector_norm(full(x[rows]), dim=-1, out=length[rows])
                raw[rows] = x[rows] @ attend
            scalars = full(first[images] @ attend), raw, length.sign() / (length + EPS)
            with torch.set_grad_enabled(keep):
                raw_first, raw, inverse = (y.requires_grad_(keep) for y in scalars)
                gate, others = gates(raw_first, raw * inverse, *learnt)
                share = others * inverse
            sums = weighted_sums(share.to(x.dtype), x, sizes)
            pooled[images] = gate.to(x.dtype)[..., None] * first[images] + sums
        if keep:
            ctx.save_for_backward(first, attention, parts, words, weight, attend, x, length)
            ctx.sizes, ctx.gates, ctx.leaves = sizes, (gate, share), (*scalars, *learnt)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all tensors; blocks of images are summed in float32."""
        first, attention, parts, words, weight, attend, x, length = ctx.saved_tensors
        gate, share = (y.detach().to(x.dtype) for y in ctx.gates)
        with torch.enable_grad():
            sums = weighted_sums(share.requires_grad_(), x, ctx.sizes)
        (by_share,) = torch.autograd.grad(sums, share, gradient)
        by_gates = full(gradient * first).sum(-1), full(by_share)
        by_first, by_raw, by_inverse, *by_learnt = torch.autograd.grad(
            ctx.gates, ctx.leaves, by_gates, retain_graph=True
        )
        share, inverse = share.detach(), ctx.leaves[2].detach()
        by_attend = by_first.flatten() @ full(first).flatten(0, 1)
        by_first = by_first.to(x.dtype)[..., None] * attend + gate[..., None] * gradient
        # d(1 / (n + eps)) = -x / n / (n + eps)^2 dx; in float32, as it is large for small n.
        tiny = torch.finfo(length.dtype).tiny
        along = -by_inverse * (inverse.square() / length.clamp_min(tiny))
        by_raw = by_raw.to(x.dtype)
        owner = torch.arange(len(ctx.sizes)).repeat_interleave(ctx.sizes)
        inputs = attention, parts, words, weight
        found = gradients_of(*inputs)
        for rows in image_blocks(parts, words):
            by_x = (x[rows] * along[rows, :, None]).to(x.dtype)
            by_x.addcmul_(gradient[rows].index_select(1, owner), share[rows, :, None])
            by_x.addcmul_(by_raw[rows, :, None], attend)
            by_attend += by_raw[rows].flatten() @ x[rows].flatten(0, 1)
            add_gradients(by_x, rows, inputs, found)
        low = (y.to(x.dtype) for y in (*found, by_attend))
        return None, None, None, None, by_first, *low, *by_learnt


def weighted_sums(weights: Tensor, x: Tensor, sizes: Tensor) -> Tensor:
    """Sum the weighted words of each caption: (I, W), (I, W, K) -> (I, C, K); no gradient of x.

    Args:
        weights: weights of the words, in the type of x.
        x: vectors of the words, caption after caption.
        sizes: (C,) number of words of each caption.
    """
    rows = torch.arange(weights.numel())
    starts = torch.arange(len(x))[:, None] * weights.shape[1] + sizes.cumsum(0) - sizes
    sums = embedding_bag(
        rows, x.flatten(0, 1), starts.flatten(), mode="sum", per_sample_weights=weights.flatten()
    )
    return sums.view(len(x), len(sizes), x.shape[-1])
