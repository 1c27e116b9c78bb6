"""InfoNCE: cross-entropy of each item with its matches, at a learnt temperature.

Van den Oord, Li, Vinyals 2018, equation 4; in both retrieval directions with a learnt temperature:
CLIP, Radford et al., ICML 2021, figure 3.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from itm.batch import Pairs, same_image
from itm.layers.functional import at_most, full, full_precision
from itm.losses.base import Loss, Sides
from itm.losses.shared import positive_mask, without_decay
from itm.utils.checks import check_least

LARGEST = 100.0  # CLIP's limit of 1 / temperature


@full_precision
def infonce(
    scores: Tensor,
    positive: Tensor | None = None,
    temperature: float | Tensor = 0.07,
    margin: float = 0.0,
) -> Tensor:
    """Average -log softmax(s / T) of the matching pairs, over images and over captions.

    An item with several matches spreads its target evenly over them. An item without a match counts
    as a negative only. Each direction is the mean over its items, and the loss the mean of both.

    Args:
        scores: (I, C), larger = better match.
        positive: (C,) int64, row of each caption's image; or (I, C) bool mask of matching pairs;
            None = the diagonal.
        temperature: T.
        margin: added to the scores of the negatives (CHAN's InfoNCE, which is the sum of both
            directions, twice this loss).

    Returns:
        Scalar, at least float32.

    Raises:
        ValueError: shapes do not match, or the temperature is a number that is not above 0.
    """
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    scores = full(scores)
    matching = positive_mask(scores, positive)
    logits = torch.where(matching, scores, scores + margin) / temperature
    total = scores.new_zeros(())
    for x, target in ((logits, matching), (logits.T, matching.T)):
        count = target.sum(1)
        surprise = -torch.log_softmax(x, 1).masked_fill(~target, 0.0).sum(1) / count.clamp_min(1)
        total = total + surprise.sum() / (count > 0).sum().clamp_min(1)
    return total / 2


class InfoNCE(Loss):
    """`infonce` as a loss object, with a learnt temperature.

    Args:
        temperature: T at the start (CLIP: 0.07), for scores of the size of cosines. T stays above
            0.01.
        learn: learn T; otherwise it stays as it is.
        margin: added to the scores of the negatives.
        same_image: a caption matches every row of its image in the batch, as captions of copies of
            an image do; otherwise only its own row.
        gather: score against the batches of all processes.

    Raises:
        ValueError: the temperature is not above 0, or below the least that is learnt, or the
            margin is negative.

    Examples:
        >>> import torch
        >>> from itm.losses import InfoNCE
        >>> loss = InfoNCE(temperature=0.1)
        >>> bool(loss(torch.eye(3)) < loss(torch.zeros(3, 3)))
        True
    """

    log_scale: nn.Parameter

    def __init__(
        self,
        temperature: float = 0.07,
        learn: bool = True,
        margin: float = 0.0,
        same_image: bool = True,
        gather: bool = False,
    ):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if learn and temperature * LARGEST < 1:
            raise ValueError(
                f"temperature must be at least {1 / LARGEST:g} if it is learnt, got {temperature}: "
                "give learn=False (loss.learn=false) to keep a smaller one"
            )
        check_least({"margin": margin}, {"margin": 0})
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)), requires_grad=learn)
        self.margin = margin
        self.same_image = same_image
        self.gather = gather

    @property
    def temperature(self) -> Tensor:
        """Return the current T, a scalar."""
        return 1 / bounded_scale(self.log_scale)

    def forward(
        self, scores: Tensor, pairs: Pairs | None = None, encoded: Sides | None = None
    ) -> Tensor:
        """Compute the loss of a score matrix (I, C); without `pairs` the diagonal is positive."""
        return infonce(scores, matches(pairs, self.same_image), self.temperature, self.margin)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the temperature as a group without weight decay (CLIP, section 2.5)."""
        return without_decay(self.log_scale)


def bounded_scale(log_scale: Tensor) -> Tensor:
    """Return exp(log_scale), at most 100 if it is learnt."""
    return (at_most(log_scale, math.log(LARGEST)) if log_scale.requires_grad else log_scale).exp()


def matches(pairs: Pairs | None, copies: bool) -> Tensor | None:
    """Return the matching pairs of a batch as a loss takes them: (C,) rows or an (I, C) mask.

    Args:
        pairs: the batch; None = the diagonal.
        copies: a caption matches all rows of its image.
    """
    if pairs is None:
        return None
    return same_image(pairs) if copies else pairs.captions.image
