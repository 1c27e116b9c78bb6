"""The fixed-margin hinge on both retrieval directions (VSE++, Faghri et al. 2018, section 3)."""

import torch
from torch import Tensor, nn

from itm.batch import Encoded, Pairs, positives, same_image
from itm.layers import full, full_precision


@full_precision
def triplet(
    scores: Tensor,
    positive: Tensor | None = None,
    ignore: Tensor | None = None,
    margin: float = 0.2,
    negatives: str = "hardest",
    top_k: int = 10,
    reduction: str = "sum",
) -> Tensor:
    """Sum over anchors of [margin + s(negative) - s(positive)]_+ in both directions.

    Each positive pair (i, c) is an anchor twice: image i against the other captions of its row,
    and caption c against the other images of its column.

    Args:
        scores: (I, C), larger = better match.
        positive: (I, C) bool, which pairs match; the diagonal when None.
        ignore: (I, C) bool, pairs that are no negatives (beside the positives).
        margin: the margin.
        negatives: "all", "hardest" or "top" (mean of the `top_k` largest hinge values).
        top_k: how many negatives "top" averages.
        reduction: "sum" over the batch (published learning rates assume it) or "mean" over anchors.

    Returns:
        Scalar.

    Raises:
        ValueError: shapes that do not fit, or an unknown option.
    """
    scores = full(scores)
    if positive is None:
        if scores.shape[0] != scores.shape[1]:
            raise ValueError(
                f"scores {tuple(scores.shape)} are not square: give the (I, C) mask of positives"
            )
        positive = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    if positive.shape != scores.shape:
        raise ValueError(f"positives {tuple(positive.shape)} for scores {tuple(scores.shape)}")
    excluded = positive if ignore is None else positive | ignore
    # One caption has one image here, so a column's positive is the sum over its one True row.
    own = (scores * positive).sum(0)  # (C,)
    image = positive.int().argmax(0)  # (C,) row of each caption's image
    per_caption = (margin + scores - own).clamp_min(0).masked_fill(excluded, 0).T  # (C, I)
    per_image = (margin + scores[image] - own[:, None]).clamp_min(0)  # (C, C)
    per_image = per_image.masked_fill(excluded[image], 0)
    total = _pick(per_caption, negatives, top_k) + _pick(per_image, negatives, top_k)
    if reduction == "sum":
        return total
    if reduction == "mean":
        return total / (2 * scores.shape[1])
    raise ValueError(f"reduction {reduction!r} is neither 'sum' nor 'mean'")


def _pick(hinge: Tensor, negatives: str, top_k: int) -> Tensor:
    """Sum over rows of the hinge values that count; (anchors, candidates) -> scalar."""
    if hinge.numel() == 0:
        return hinge.sum()
    if negatives == "hardest":
        return hinge.amax(1).sum()
    if negatives == "all":
        return hinge.sum()
    if negatives == "top":
        return hinge.topk(min(top_k, hinge.shape[1]), dim=1).values.mean(1).sum()
    raise ValueError(f"negatives {negatives!r} is none of 'all', 'hardest', 'top'")


class Triplet(nn.Module):
    """`triplet` as a loss object.

    Args:
        margin: the margin.
        negatives: "hardest", "all" or "top".
        top_k: how many negatives "top" averages.
        reduction: "sum" or "mean".
        mask_same_image: captions of the same image are no negatives of each other; off in the
            published systems.
        gather: score against the batches of all processes.
    """

    def __init__(
        self,
        margin: float = 0.2,
        negatives: str = "hardest",
        top_k: int = 10,
        reduction: str = "sum",
        mask_same_image: bool = False,
        gather: bool = False,
    ):
        super().__init__()
        self.margin = margin
        self.negatives = negatives
        self.top_k = top_k
        self.reduction = reduction
        self.mask_same_image = mask_same_image
        self.gather = gather

    def forward(
        self,
        scores: Tensor,
        pairs: Pairs | None = None,
        encoded: tuple[Encoded, Encoded] | None = None,
    ) -> Tensor:
        """Scalar loss of a score matrix (I, C); without `pairs` the diagonal is positive."""
        return triplet(
            scores,
            None if pairs is None else positives(pairs),
            same_image(pairs) if pairs is not None and self.mask_same_image else None,
            self.margin,
            self.negatives,
            self.top_k,
            self.reduction,
        )
