"""Images and captions as Gaussians with diagonal covariance: distances, and the test score.

Chun: Improved Probabilistic Image-Text Representations (PCME++), ICLR 2024, sections 3.1 and A.
A Gaussian is a mean (N, D) and the logarithm of a variance (N, D).
"""

import math

import torch
from torch import Tensor

from itm.layers.functional import full, full_precision


@full_precision
def total_variance(log_var: Tensor) -> Tensor:
    """Sum the variances of each Gaussian: (N, D) -> (N,). This is its uncertainty."""
    return full(log_var).exp().sum(-1)


@full_precision
def csd(image: Tensor, image_log_var: Tensor, caption: Tensor, caption_log_var: Tensor) -> Tensor:
    """Compute the closed-form sampled distance of all pairs, (I, C).

    ||mu_i - mu_c||^2 + sum_k (var_ik + var_ck): the expected squared distance of two samples.
    """
    variance = total_variance(image_log_var)[:, None] + total_variance(caption_log_var)
    return _squared(image, caption) + variance


@full_precision
def wasserstein(
    image: Tensor, image_log_var: Tensor, caption: Tensor, caption_log_var: Tensor
) -> Tensor:
    """Compute the squared 2-Wasserstein distance of all pairs, (I, C).

    ||mu_i - mu_c||^2 + ||std_i - std_c||^2.
    """
    deviations = (full(image_log_var) / 2).exp(), (full(caption_log_var) / 2).exp()
    return _squared(image, caption) + _squared(*deviations)


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Compute squared distances (N, M) without an (N, M, D) tensor."""
    a, b = full(a), full(b)
    return a.square().sum(-1)[:, None] + b.square().sum(-1) - 2 * a @ b.T


@full_precision
def csd_vectors(mean: Tensor, log_var: Tensor, side: str) -> Tensor:
    """Return vectors (N, D + 2) whose dot products are -CSD of Gaussians with unit means.

    -(2 - 2 mu_i . mu_c + v_i + v_c) with v the total variance: two more coordinates hold 1 + v of
    one side beside a constant 1 of the other, so that nearest neighbours are found by dot products.

    Args:
        mean: (N, D), of unit length.
        log_var: (N, D).
        side: "image" or "caption".
    """
    mean = math.sqrt(2) * full(mean)
    own = -1 - total_variance(log_var)[:, None]
    one = torch.ones_like(own)
    return torch.cat([mean, own, one] if side == "image" else [mean, one, own], -1)
