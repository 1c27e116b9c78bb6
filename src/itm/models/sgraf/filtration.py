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

from itm.layers.functional import for_products, full, full_precision, l2norm, send, xavier_
from itm.layers.packing import Packed
from itm.models.sgraf.nodes import add_gradients, difference, gradients_of, image_blocks, real

EPS = 1e-8  # added to norms

Gates = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


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

    def forward(
        self, first: Tensor, attention: Tensor, parts: Tensor, packed: Packed, linear: nn.Linear
    ) -> Tensor:
        """Reduce the nodes of all pairs to one vector of unit length each, (I, C, K).

        Args:
            first: (I, C, K) node 0 of each pair.
            attention: (I, R, W) weights of the parts for each of W words.
            parts: (I, R, D).
            packed: the words (W, D) of C captions.
            linear: D -> K, makes similarity vectors as `itm.models.sgraf.nodes.similarity_nodes`.
        """

        def gates(first: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
            return self._gates(first, rest, packed)

        device, learnt = parts.device, (self.attend.bias, self.norm.weight, self.norm.bias)
        sizes = torch.tensor([size for count, size in packed.shapes for _ in range(count)])
        inputs = [first, attention, parts, packed.words, linear.weight, linear.bias]
        low = [for_products(x) for x in (*inputs, self.attend.weight[0])]
        with torch.autocast(device.type, enabled=False):
            keep = torch.is_grad_enabled()
            pooled = Filtration.apply(gates, sizes, keep, self.training, *low, *learnt)
        return l2norm(pooled)

    def _gates(self, first: Tensor, rest: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
        """Turn w . x of the global nodes (I, C) and of the words' (I, W) into weights of nodes."""
        found, counts = [], [count for count, _ in packed.shapes]
        groups = zip(first.split(counts, 1), rest.split(packed.sizes, 1), strict=True)
        for (zero, words), shape, mask in zip(groups, packed.shapes, packed.masks, strict=True):
            raw = torch.cat([zero[..., None], words.unflatten(1, shape)], -1) + self.attend.bias
            mask = None if mask is None else pad(mask, (1, 0), value=True)
            found.append(self._weights(raw, self.training, mask))
        zero = torch.cat([x[..., 0] for x in found], 1)
        return zero, torch.cat([x[..., 1:].flatten(1) for x in found], 1)

    def weights(self, nodes: Tensor, training: bool = False, mask: Tensor | None = None) -> Tensor:
        """Compute the weight of each node: (I, C, n, K) -> (I, C, n), sums to 1; mask (C, n)."""
        return self._weights(self.attend(nodes).squeeze(-1), training, mask)

    @full_precision
    def _weights(self, raw: Tensor, training: bool, mask: Tensor | None) -> Tensor:
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
        scaled = (raw - mean) * (variance + norm.eps).rsqrt() * norm.weight + norm.bias
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
            kept = tracked / (tracked + size)
            share = torch.ones_like(mean) / (tracked + size)
        else:
            later = torch.arange(size - 1, -1, -1, dtype=mean.dtype, device=mean.device)
            kept, share = (1 - momentum) ** size, momentum * (1 - momentum) ** later
        statistics = {"running_mean": mean, "running_var": variance * count / (count - 1)}
        for name, values in statistics.items():
            running = getattr(self.norm, name)
            running.mul_(kept).add_((share * values).sum())
        tracked += size


class Filtration(torch.autograd.Function):
    """Compute nodes x_n = W (c_n - w_n)^2 + b of all words, and their weighted sums.

    A pair's vector is sum_n gate_n x_n / (|x_n| + eps), where the gate is a function of the scalars
    w . x_n / (|x_n| + eps). The gradient of x_n is therefore a sum of three vectors: one per pair,
    one for all nodes, and x_n itself. It is made in the cache, block by block, and used at once;
    neither nodes of unit length nor their gradients are stored.
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
            ctx: of autograd.
            gates: turns w . node of the global nodes (I, C) and of the words' (I, W) into gates of
                both; its own gradients come from autograd.
            sizes: (C,) number of words of each caption, on the host.
            keep: there will be a `backward`.
            together: `gates` needs all images at once.
            first: (I, C, K) global nodes, of unit length.
            attention: (I, R, W).
            parts: (I, R, D).
            words: (W, D).
            weight: (K, D).
            bias: (K,).
            attend: (K,), the w above.
            *learnt: parameters that `gates` uses.
        """
        pooled = torch.empty_like(first)
        # Elsewhere than on a CPU, each kernel costs a launch.
        together = together or keep or parts.device.type != "cpu"
        for images in [slice(0, len(parts))] if together else image_blocks(parts, words):
            x = parts.new_empty(len(parts[images]), len(words), len(weight))  # (i, W, K)
            length, raw = (full(parts[:0]).new_empty(x.shape[:2]) for _ in range(2))
            for rows in image_blocks(parts[images], words):
                square = difference(attention[images][rows], parts[images][rows], words).square_()
                torch.addmm(bias, square.flatten(0, 1), weight.T, out=x[rows].flatten(0, 1))
                torch.linalg.vector_norm(full(x[rows]), dim=-1, out=length[rows])
                raw[rows] = x[rows] @ attend
            leaves = full(first[images] @ attend), raw, length.sign() / (length + EPS)
            with torch.set_grad_enabled(keep):
                raw_first, raw, inverse = (y.requires_grad_(keep) for y in leaves)
                gate, others = gates(raw_first, raw * inverse)
                share = (others * inverse).to(x.dtype)
                sums = weighted_sums(share, x, sizes)
            pooled[images] = gate.to(x.dtype)[..., None] * first[images] + sums
        if keep:
            ctx.save_for_backward(first, attention, parts, words, weight, attend, x, length)
            ctx.sizes, ctx.gate, ctx.share, ctx.sums = sizes, gate, share.detach(), sums
            ctx.leaves, ctx.learnt = leaves, learnt
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all tensors; sums over images are in float32."""
        first, attention, parts, words, weight, attend, x, length = ctx.saved_tensors
        above = full(gradient * first).sum(-1), gradient
        wanted = [y for y in ctx.learnt if y.requires_grad]  # parameters may be frozen
        by_first, by_raw, by_inverse, *by_wanted = torch.autograd.grad(
            (ctx.gate, ctx.sums), (*ctx.leaves, *wanted), above, retain_graph=True
        )
        by_learnt = [by_wanted.pop(0) if y.requires_grad else None for y in ctx.learnt]
        by_attend = by_first.flatten() @ full(first).flatten(0, 1)
        by_first = by_first.to(x.dtype)[..., None] * attend
        by_first += ctx.gate.detach().to(x.dtype)[..., None] * gradient
        # d(1 / (n + eps)) = -x / n / (n + eps)^2 dx
        tiny = torch.finfo(length.dtype).tiny
        along = -by_inverse * (ctx.leaves[2].detach().square() / length.clamp_min(tiny))
        by_raw, along = by_raw.to(x.dtype), along.to(x.dtype)
        owner = send(torch.arange(len(ctx.sizes)).repeat_interleave(ctx.sizes), x.device)
        inputs = attention, parts, words, weight
        found = gradients_of(*inputs)
        for rows in image_blocks(parts, words):
            g = x[rows] * along[rows, :, None]
            g.addcmul_(gradient[rows].index_select(1, owner), ctx.share[rows, :, None])
            g.addcmul_(by_raw[rows, :, None], attend)
            by_attend += by_raw[rows].flatten() @ x[rows].flatten(0, 1)
            add_gradients(g, rows, inputs, found)
        low = (y.to(x.dtype) for y in (*found, by_attend))
        return None, None, None, None, by_first, *low, *by_learnt


def weighted_sums(weights: Tensor, x: Tensor, sizes: Tensor) -> Tensor:
    """Sum the weighted words of each caption: (I, W), (I, W, K) -> (I, C, K); no gradient of x.

    Args:
        weights: weights of the words, in the type of x.
        x: vectors of the words, caption after caption.
        sizes: (C,) number of words of each caption, on the host.
    """
    equal = weights.shape[1] == len(sizes) * sizes[0]  # captions are sorted by their size
    if equal and x.device.type != "cpu":  # one kernel
        shape = (len(sizes), int(sizes[0]))
        return (weights.unflatten(1, shape)[..., None, :] @ x.unflatten(1, shape)).squeeze(-2)
    rows = torch.arange(weights.numel(), device=x.device)
    starts = torch.arange(len(x))[:, None] * weights.shape[1] + sizes.cumsum(0) - sizes
    flat, bags = x.flatten(0, 1), send(starts.flatten(), x.device)
    sums = embedding_bag(rows, flat, bags, mode="sum", per_sample_weights=weights.flatten())
    return sums.view(len(x), len(sizes), -1)
