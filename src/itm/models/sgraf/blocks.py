"""Parts of SGRAF: global vectors, and the filtration of similarity vectors to one (SAF).

Diao, Zhang, Ma, Lu: Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021. A pair
of an image and a caption of L words is a set of n = L + 1 nodes, each a similarity vector of width
K; node 0 compares the global vectors. Captions that are scored together have equal length, or a
mask (c, n) marks the real nodes of each of the c captions.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from itm.layers.functional import full, full_precision, l2norm, masked_mean, masked_softmax, xavier_


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


def real(x: Tensor, mask: Tensor | None, value: float = 0.0) -> Tensor:
    """Replace padding by `value`; the mask broadcasts to x, None = no padding."""
    return x if mask is None else x.masked_fill(~mask, value)


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
