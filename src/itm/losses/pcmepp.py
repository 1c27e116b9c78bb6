"""PCME++: pairs match with a probability that falls with the distance of two Gaussians.

Chun: Improved Probabilistic Image-Text Representations, ICLR 2024, sections 3.2 to 3.4.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from itm.batch import Encoded, Pairs, same_image
from itm.layers.functional import full, full_precision
from itm.layers.gaussian import csd, wasserstein
from itm.losses.base import Loss, Sides
from itm.losses.shared import check_floats, check_weights, on_host, positive_mask, without_decay
from itm.utils.checks import check_choice

DISTANCES = {"csd": csd, "wasserstein": wasserstein}
GUARD = 1e4  # a divergence above this is left out, as in the authors' code


@full_precision
def pcmepp(logits: Tensor, labels: Tensor, smoothness_alpha: float = 0.1) -> Tensor:
    """Compute the matching loss: 2 BCE(z, y) + alpha (BCE(z, y+) + BCE(z^T, (y^T)+)).

    BCE is the mean over all I x C pairs, so a positive weighs less in a larger batch.

    Args:
        logits: z (I, C), larger = better match; the paper's are -a distance + b.
        labels: y (I, C) in [0, 1].
        smoothness_alpha: weight of the pseudo-positives y+, see `pseudo_positives`.

    Returns:
        Scalar, at least float32.

    Raises:
        ValueError: the shapes differ, the batch is empty, or on the host, a label is not in [0, 1].
    """
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels must have the shape of the logits {tuple(logits.shape)}, got "
            f"{tuple(labels.shape)}"
        )
    if not logits.numel():
        raise ValueError(f"the loss of no pairs is undefined, got logits {tuple(logits.shape)}")
    logits = full(logits)
    labels = labels.to(logits.dtype)
    if on_host(labels) and not ((labels >= 0) & (labels <= 1)).all():
        raise ValueError("labels must lie between 0 (no match) and 1 (match)")
    loss = 2 * cross_entropy(logits, labels)
    if smoothness_alpha:
        rows = cross_entropy(logits, pseudo_positives(logits, labels))
        columns = cross_entropy(logits.T, pseudo_positives(logits.T, labels.T))
        loss = loss + smoothness_alpha * (rows + columns)
    return loss


@torch.no_grad()
def pseudo_positives(logits: Tensor, labels: Tensor) -> Tensor:
    """Raise the labels of all pairs that score at least as high as the row's match, (I, C).

    The match of a row is the first pair with the row's largest label, which the others receive.

    Args:
        logits: (I, C).
        labels: (I, C) in [0, 1].
    """
    largest = labels.amax(1, keepdim=True)
    column = torch.arange(labels.shape[1], device=labels.device)
    # argmax may return any of several largest labels on a GPU.
    match = torch.where(labels == largest, column, labels.shape[1]).amin(1, keepdim=True)
    return torch.where(logits >= logits.gather(1, match), largest, labels)


@full_precision
def divergence(mean: Tensor, log_var: Tensor) -> Tensor:
    """Average the divergence from N(0, 1) over rows and dimensions of Gaussians (N, D) -> scalar.

    A value above 10,000 is replaced by 0 without a gradient.
    """
    mean, log_var = full(mean), full(log_var)
    value = -0.5 * (1 + log_var - mean.square() - log_var.exp()).mean()
    return torch.where(value > GUARD, torch.zeros_like(value), value)


class PCMEPP(Loss):
    """`pcmepp` plus `divergence` of both sides, as a loss object with a learnt scale and shift.

    The encodings are Gaussians if they have `aux["log_var"]` (and `aux["mean"]`; without it the
    global vector is the mean), as `model=vse_infty model.probabilistic=true` makes them. Those of
    other matchers are points, whose distance is 2 - 2 x score: the squared distance of unit vectors
    when the score is a cosine.

    Rows of the same image match each other's captions, also in other processes with `gather`.

    Args:
        init_negative_scale: initial a of the logits -a distance + b.
        init_shift: initial b.
        distance: "csd", or "wasserstein" (an ablation of the paper).
        smoothness_alpha: weight of the pseudo-positives.
        vib_beta: weight of the divergence from N(0, 1).
        label_smoothing: e in the labels (1 - e) y + e (1 - y).
        gather: score against the batches of all processes.

    Raises:
        ValueError: an option is unknown or out of range.

    Examples:
        >>> from itm.losses import PCMEPP
        >>> from itm.models import VSEInfinity
        >>> matcher = VSEInfinity(probabilistic=True, loss=PCMEPP())  # it reads means and variances
        >>> [group["name"] for group in matcher.loss.parameter_groups()]
        ['loss']
    """

    def __init__(
        self,
        init_negative_scale: float = 5.0,
        init_shift: float = 5.0,
        distance: str = "csd",
        smoothness_alpha: float = 0.1,
        vib_beta: float = 1e-4,
        label_smoothing: float = 0.0,
        gather: bool = False,
    ):
        super().__init__()
        check_choice("distance", distance, tuple(DISTANCES))
        if not 0 <= label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be from 0 to below 0.5, got {label_smoothing}")
        check_weights({"smoothness_alpha": smoothness_alpha, "vib_beta": vib_beta})
        if not init_negative_scale > 0:  # else matching pairs would have the lowest logits
            raise ValueError(f"init_negative_scale must be above 0, got {init_negative_scale}")
        self.distance = distance
        self.smoothness_alpha = smoothness_alpha
        self.vib_beta = vib_beta
        self.label_smoothing = label_smoothing
        self.gather = gather
        self.negative_scale = nn.Parameter(torch.tensor([float(init_negative_scale)]))
        self.shift = nn.Parameter(torch.tensor([float(init_shift)]))

    def forward(
        self, scores: Tensor, pairs: Pairs | None = None, encoded: Sides | None = None
    ) -> Tensor:
        """Compute the loss of a score matrix (I, C); without `pairs` the diagonal matches."""
        image, caption = (None, None) if encoded is None else map(_gaussian, encoded)
        if image is None or caption is None:
            check_floats(scores)
            logits = self._logits(2 - 2 * full(scores))
            return pcmepp(logits, self.labels(logits, pairs), self.smoothness_alpha)
        logits = self._logits(DISTANCES[self.distance](*image, *caption))
        loss = pcmepp(logits, self.labels(logits, pairs), self.smoothness_alpha)
        return loss + self.vib_beta * (divergence(*image) + divergence(*caption))

    @full_precision
    def _logits(self, distance: Tensor) -> Tensor:
        return -self.negative_scale * distance + self.shift

    def labels(self, logits: Tensor, pairs: Pairs | None) -> Tensor:
        """Label the pairs of logits (I, C) by the image of each caption, (I, C) in [0, 1]."""
        positive = positive_mask(logits) if pairs is None else same_image(pairs)
        y, e = positive.to(logits.dtype), self.label_smoothing
        return (1 - e) * y + e * (1 - y)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return scale and shift as a group without weight decay."""
        return without_decay(self.negative_scale, self.shift)


def _gaussian(encoded: Encoded) -> tuple[Tensor, Tensor] | None:
    """Return mean and log variance (N, D), or None if the encodings are points."""
    aux = encoded.aux or {}
    mean = aux.get("mean", encoded.vector)
    return None if "log_var" not in aux or mean is None else (mean, aux["log_var"])
