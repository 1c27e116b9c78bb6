"""Global vectors of SGRAF: weighted means of the regions of an image or the words of a caption.

Diao, Zhang, Ma, Lu: Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021.
"""

from torch import Tensor, nn

from itm.layers.dropout import Dropout
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
        self.dropout = Dropout(dropout)

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
