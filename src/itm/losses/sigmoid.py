"""Sigmoid loss: every pair of a batch is classified as matching or not, with a learnt scale.

Zhai, Mustafa, Kolesnikov, Beyer: Sigmoid Loss for Language Image Pre-Training (SigLIP), ICCV 2023,
equation in section 3.2.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from itm.batch import Pairs
from itm.layers.functional import full, full_precision
from itm.losses.base import Loss, Sides
from itm.losses.infonce import LARGEST, bounded_scale, matches
from itm.losses.shared import positive_mask, without_decay


@full_precision
def sigmoid(
    scores: Tensor,
    positive: Tensor | None = None,
    scale: float | Tensor = 10.0,
    bias: float | Tensor = -10.0,
) -> Tensor:
    """Classify every pair as matching or not.

    The sum of -log(1 / (1 + exp(-z (t s + b)))) over all pairs, divided by the captions; z is 1 for
    matching pairs and -1 for the others.

    Args:
        scores: s (I, C), larger = better match.
        positive: (C,) int64, row of each caption's image; or (I, C) bool mask of matching pairs;
            None = the diagonal.
        scale: t.
        bias: b.

    Returns:
        Scalar, at least float32.

    Raises:
        ValueError: shapes do not match.
    """
    scores = full(scores)
    sign = torch.where(positive_mask(scores, positive), 1.0, -1.0)
    return -logsigmoid(sign * (scale * scores + bias)).sum() / max(1, scores.shape[1])


class Sigmoid(Loss):
    """`sigmoid` as a loss object, with learnt scale and bias.

    Args:
        scale: t at the start (SigLIP: 10), for scores of the size of cosines; stays below 100.
        bias: b at the start (SigLIP: -10). At t s + b = -log(B - 1) for all pairs, matching and
            other pairs balance.
        same_image: a caption matches every row of its image in the batch, as captions of copies of
            an image do; otherwise only its own row.
        gather: score against the batches of all processes.

    Raises:
        ValueError: the scale is not above 0, or above 100, the largest that is learnt.

    Examples:
        >>> import torch
        >>> from itm.losses import Sigmoid
        >>> loss = Sigmoid()
        >>> bool(loss(torch.eye(3)) < loss(torch.zeros(3, 3)))
        True
    """

    log_scale: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self,
        scale: float = 10.0,
        bias: float = -10.0,
        same_image: bool = True,
        gather: bool = False,
    ):
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        if scale > LARGEST:
            raise ValueError(f"scale must be at most {LARGEST:g}, the largest learnt, got {scale}")
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))
        self.same_image = same_image
        self.gather = gather

    def forward(
        self, scores: Tensor, pairs: Pairs | None = None, encoded: Sides | None = None
    ) -> Tensor:
        """Compute the loss of a score matrix (I, C); without `pairs` the diagonal is positive."""
        scale = bounded_scale(self.log_scale)
        return sigmoid(scores, matches(pairs, self.same_image), scale, self.bias)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return scale and bias as a group without weight decay."""
        return without_decay(self.log_scale, self.bias)
