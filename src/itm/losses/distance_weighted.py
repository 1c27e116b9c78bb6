"""Draw negatives so that all distances to the anchor are about equally likely.

Wu, Manmatha, Smola, Kraehenbuehl: Sampling Matters in Deep Embedding Learning, ICCV 2017, section
4.1; used for image-text matching by HREM (Fu et al., CVPR 2023).
"""

import torch
from torch import Tensor

NEAR, FAR = 0.5, 1.4  # distances are taken as at least and at most these (Wu et al. 2017)


def log_weights(scores: Tensor, dim: int) -> Tensor:
    """Compute log 1 / q(d), the weight of a negative at distance d = sqrt(2 - 2 s).

    Distances of random points on a sphere in D dimensions have the density
    q(d) = d^(D - 2) (1 - d^2 / 4)^((D - 3) / 2).

    Args:
        scores: cosines s, any shape.
        dim: D.

    Returns:
        The same shape, up to a constant.
    """
    d = (2 - 2 * scores.clamp(-1, 1)).sqrt().clamp(NEAR, FAR)
    return (2 - dim) * d.log() - (dim - 3) / 2 * (1 - d.square() / 4).log()


@torch.no_grad()
def draw_negatives(scores: Tensor, excluded: Tensor, dim: int) -> Tensor:
    """Draw one negative for each anchor with a probability in proportion to 1 / q(d).

    Args:
        scores: (P, candidates) cosines of P anchors.
        excluded: (P, candidates) bool, True = not a negative.
        dim: D.

    Returns:
        (P,) int64, the drawn columns; an excluded one if the anchor has no negatives.
    """
    logits = log_weights(scores, dim).masked_fill(excluded, float("-inf"))
    # The largest of logits + Gumbel noise is a draw from their softmax.
    noise = -torch.empty_like(logits).exponential_().log()
    return (logits + noise).argmax(1)
