"""Logistic loss on labelled pairs, as the two-branch similarity network uses it.

Wang, Li, Huang, Lazebnik: Learning Two-Branch Neural Networks for Image-Text Matching Tasks,
TPAMI 2019, section 3.3.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from itm.batch import Pairs, same_image
from itm.layers.functional import full, full_precision
from itm.losses.base import Loss, Sides
from itm.losses.shared import anchors, on_host


@full_precision
def logistic(scores: Tensor, target: Tensor) -> Tensor:
    """Compute the mean of log(1 + exp(-y s)) over the labelled pairs.

    Args:
        scores: s, any shape.
        target: y in {+1, 0, -1}, same shape as `scores`; 0 = not labelled.

    Returns:
        Scalar, at least float32; 0 if no pair is labelled.

    Raises:
        ValueError: the shapes differ, or on the host, labels other than +1, 0 and -1.
    """
    if target.shape != scores.shape:
        raise ValueError(
            f"target must have the shape of scores {tuple(scores.shape)}, got {tuple(target.shape)}"
        )
    is_mask = target.dtype == torch.bool
    if is_mask or (on_host(target) and not (target.abs().eq(1) | target.eq(0)).all()):
        raise ValueError("target must hold +1 (match), -1 (no match) and 0 (not labelled) only")
    labelled = target != 0
    # Replace the scores of padding (-inf) before the product, or their gradient would be NaN.
    loss = softplus(-target * full(scores).masked_fill(~labelled, 0)) * labelled
    return loss.sum() / labelled.sum().clamp_min(1)


class Logistic(Loss):
    """`logistic` as a loss object.

    The labels are `pairs.target` if the batch has it. Otherwise matching pairs are +1 and other
    pairs are -1; `negatives` limits how many of these are drawn.

    Args:
        negatives: negatives per matching pair, drawn at random from each caption's other images,
            or from the other regions of a phrase's image (CITE: 2); None = all.
        mask_same_image: do not label pairs of a caption with other rows of its image.
        gather: score against the batches of all processes.

    Examples:
        >>> import torch
        >>> from itm.losses import Logistic
        >>> float(Logistic()(torch.zeros(2, 2))) > 0
        True
    """

    def __init__(
        self, negatives: int | None = None, mask_same_image: bool = False, gather: bool = False
    ):
        super().__init__()
        if negatives is not None and negatives < 1:
            raise ValueError(f"negatives must be at least 1, or null for all, got {negatives}")
        self.negatives = negatives
        self.mask_same_image = mask_same_image
        self.gather = gather

    def forward(
        self, scores: Tensor, pairs: Pairs | None = None, encoded: Sides | None = None
    ) -> Tensor:
        """Compute the loss of a score matrix (I, C); without `pairs` the diagonal is positive."""
        target = None if pairs is None else pairs.target
        return logistic(scores, self.labels(scores, pairs) if target is None else target)

    def labels(self, scores: Tensor, pairs: Pairs | None) -> Tensor:
        """Label the pairs, (I, C) in {+1, 0, -1}, by the image of each caption."""
        image = None if pairs is None else pairs.captions.image
        positive = anchors(scores, image).positive
        target = torch.where(positive, 1.0, -1.0)
        if pairs is not None and self.mask_same_image:
            target.masked_fill_(same_image(pairs) & ~positive, 0)
        if self.negatives is not None:
            # Each caption keeps the negatives with the largest random numbers of its column.
            draw = torch.rand_like(target).masked_fill(target >= 0, -1)
            drawn = draw.topk(min(self.negatives, len(draw)), 0).indices
            kept = torch.zeros_like(positive).scatter(0, drawn, True)
            target.masked_fill_((target < 0) & ~kept, 0)
        return target

    def ground(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> dict[str, Tensor]:
        """Compute the logistic loss of labelled regions, see `Loss.ground`.

        With `negatives`, each phrase keeps that many randomly drawn negative regions per matching
        region.
        """
        target = pairs.target
        assert target is not None
        if self.negatives is not None:
            kept = self.negatives * (target > 0).sum(1, keepdim=True)  # (C, 1)
            draw = torch.rand_like(target).masked_fill(target >= 0, -1)
            place = draw.argsort(1, descending=True).argsort(1)  # (C, R) drawn ones first
            target = target.masked_fill((target < 0) & (place >= kept), 0)
        return {"ranking": logistic(scores, target)}
