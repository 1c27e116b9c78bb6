"""Parts of SGRAF: global vectors, similarity vectors, and their filtration to one (SAF).

Diao, Zhang, Ma, Lu: Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021. A pair
of an image and a caption of L words is a set of n = L + 1 nodes, each a similarity vector of width
K; node 0 compares the global vectors. Captions that are scored together have equal length, or a
mask (c, n) marks the real nodes of each of the c captions.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from itm.layers.functional import full, full_precision, l2norm, masked_mean, masked_softmax, xavier_
from itm.layers.packing import Packed
from itm.utils.devices import block_values

# Values that a CPU computes at once:
BLOCK = 1 << 22  # of one (images, words, D) block
CACHE = 1 << 20  # of the nodes


class GlobalVector(nn.Module):
    """Weighted mean of parts; a part's weight depends on it and on the plain mean (section 3.1).

    a_p = tanh(BN(W_a x_p)), b = tanh(BN(W_b mean(x))), e_p = w . (a_p * b),
    vector = l2norm(sum_p softmax(e)_p x_p); only the image side has batch norms.

    Args:
        embed_dim: width D.
        positions: number of parts of every input, for batch norms, one of them per position;
            None = no batch norms, and inputs may differ in length.
        dropout: dropout on a and b in training.
    """

    def __init__(self, embed_dim: int, positions: int | None = None, dropout: float = 0.4):
        super().__init__()
        self.part = xavier_(nn.Linear(embed_dim, embed_dim))
        self.mean = xavier_(nn.Linear(embed_dim, embed_dim))
        self.score = xavier_(nn.Linear(embed_dim, 1))
        norms = positions is not None
        self.part_norm = nn.BatchNorm1d(positions) if positions is not None else nn.Identity()
        self.mean_norm = nn.BatchNorm1d(embed_dim) if norms else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, parts: Tensor, mask: Tensor) -> Tensor:
        """Pool parts (N, P, D) with mask (N, P) to (N, D)."""
        return weighted_mean(self.weights(parts, mask), parts)

    def weights(self, parts: Tensor, mask: Tensor) -> Tensor:
        """Compute the weight of each part: (N, P, D), (N, P) -> (N, P), rows sum to 1."""
        part = self.dropout(self.part_norm(self.part(parts)).tanh())  # (N, P, D)
        mean = self.mean_norm(self.mean(masked_mean(parts, mask))).tanh()  # (N, D)
        score = self.score(part * self.dropout(mean)[:, None]).squeeze(-1)  # (N, P)
        return masked_softmax(score, mask)


@full_precision
def weighted_mean(weights: Tensor, x: Tensor) -> Tensor:
    """Compute l2norm(sum_p weights_p x_p): (..., P), (..., P, D) -> (..., D)."""
    return l2norm((weights[..., None, :] @ full(x)).squeeze(-2))


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


def real(x: Tensor, mask: Tensor | None, value: float = 0.0) -> Tensor:
    """Replace padding by `value`; the mask broadcasts to x, None = no padding."""
    return x if mask is None else x.masked_fill(~mask, value)


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


def project_difference(
    attention: Tensor, parts: Tensor, words: Tensor, linear: nn.Linear
) -> Tensor:
    """Compute similarity vectors W (c - w)^2 + b, c = attention^T parts (equations 3 and 4).

    Args:
        attention: (I, R, N) weights of the parts for each of N words.
        parts: (I, R, D).
        words: (N, D).
        linear: D -> K.

    Returns:
        (I, N, K), not yet normalised.
    """
    device = parts.device.type
    low = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if low else parts.dtype
    inputs = (attention, parts, words, linear.weight, linear.bias)
    with torch.autocast(device, enabled=False):
        return ProjectDifference.apply(*(x.to(dtype) for x in inputs))


class ProjectDifference(torch.autograd.Function):
    """Compute W (attention^T parts - words)^2 + b without storing any (I, N, D) tensor.

    The square is quadratic in the attention, so D-wide differences cannot be avoided. They are
    computed in blocks of images, and again for the gradient, which is three times faster than
    storing them.
    """

    @staticmethod
    def forward(ctx, attention, parts, words, weight, bias):
        """Compute (I, N, K) from the inputs of `project_difference`, all of the same dtype."""
        ctx.save_for_backward(attention, parts, words, weight)
        out = attention.new_empty(len(parts), len(words), len(weight))
        for block in _blocks(parts, words):
            square = _difference(attention[block], parts[block], words).square_()
            torch.addmm(bias, square.flatten(0, 1), weight.T, out=out[block].flatten(0, 1))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        """Compute the gradients of all five inputs; sums over images run in float32."""
        attention, parts, words, weight = ctx.saved_tensors
        by_attention, by_parts = torch.empty_like(attention), torch.empty_like(parts)
        by_words, by_weight = torch.zeros_like(full(words)), torch.zeros_like(full(weight))
        for block in _blocks(parts, words):
            difference = _difference(attention[block], parts[block], words)
            above = gradient[block].flatten(0, 1)  # (i N, K)
            by_weight += above.T @ difference.square().flatten(0, 1)
            difference *= (above @ (2 * weight)).view_as(difference)  # gradient of the difference
            by_attention[block] = parts[block] @ difference.mT
            by_parts[block] = attention[block] @ difference
            by_words -= difference.sum(0, dtype=by_words.dtype)
        by_bias = full(gradient).sum((0, 1))
        return by_attention, by_parts, *(x.to(words.dtype) for x in (by_words, by_weight, by_bias))


def _blocks(parts: Tensor, words: Tensor) -> list[slice]:
    """Cut the images into slices of about `BLOCK` values (i, N, D) each."""
    step = max(1, block_values(words.device, BLOCK) // max(1, words.numel()))
    return [slice(start, start + step) for start in range(0, len(parts), step)]


def _difference(attention: Tensor, parts: Tensor, words: Tensor) -> Tensor:
    """Compute attention^T parts - words: (i, R, N), (i, R, D), (N, D) -> (i, N, D)."""
    return torch.baddbmm(words.expand(len(parts), -1, -1), attention.mT, parts, beta=-1)


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
        """Reduce the nodes (I, C, n, K) of each pair to one vector (I, C, K); mask (C, n)."""
        return weighted_mean(self.weights(nodes, self.training, mask), nodes)

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
