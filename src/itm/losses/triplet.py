"""Fixed-margin hinge loss in both retrieval directions (VSE++, Faghri et al. 2018, section 3)."""

import math

import torch
from torch import Tensor

from itm.batch import Pairs, same_image
from itm.layers.functional import full, full_precision
from itm.losses.base import Hinge, Loss, Sides
from itm.losses.distance_weighted import draw_negatives
from itm.losses.shared import REDUCTIONS, anchors, excluded_pairs, reduced
from itm.utils.checks import check_choice, check_least

PLAIN = ("hardest", "all", "top")  # choices of negatives for any scores
NEGATIVES = (*PLAIN, "distance")  # the last for cosines
ROUNDING = 0.05  # by which a cosine in half precision may exceed 1


@full_precision
def triplet(
    scores: Tensor,
    positive: Tensor | None = None,
    ignore: Tensor | None = None,
    margin: float = 0.2,
    negatives: str = "hardest",
    top_k: int = 10,
    reduction: str = "sum",
    dim: int | None = None,
) -> Tensor:
    """Sum [margin + s(negative) - s(positive)]_+ over anchors in both directions.

    Each matching pair (i, c) is an anchor twice: image i with the other captions of its row, and
    caption c with the other images of its column. An image without captions is only a negative. An
    anchor without negatives adds 0.

    Args:
        scores: (I, C), larger = better match.
        positive: (C,) int64, row of each caption's image; or (I, C) bool mask of matching pairs;
            None = the diagonal.
        ignore: (I, C) bool, further pairs to exclude from the negatives.
        margin: the margin.
        negatives: "hardest", "all", "top" (mean over the `top_k` hardest), or "distance" (one drawn
            with a weight by its distance, see `itm.losses.distance_weighted`; for cosines only).
        top_k: number of negatives that "top" averages; all if there are fewer.
        reduction: "sum" over anchors (published learning rates assume it) or "mean".
        dim: width D of the vectors that the cosines come from, for "distance".

    Returns:
        Scalar, at least float32.

    Raises:
        ValueError: shapes do not match, an option is unknown, `top_k` is below 1, or `dim` is
            missing.
    """
    check_choice("negatives", negatives, NEGATIVES)
    check_choice("reduction", reduction, REDUCTIONS)
    check_least({"top_k": top_k}, {"top_k": 1})
    scores = full(scores)
    image, caption, matching = anchors(scores, positive)
    excluded = excluded_pairs(matching, ignore)
    # Each anchor's row (P, C), then its column (P, I).
    sides = [(scores[image], excluded[image]), (scores.T, excluded.T)]
    if positive is not None and positive.dtype == torch.bool:
        sides[1] = (scores.T[caption], excluded.T[caption])
        own = scores[image, caption][:, None]  # (P, 1)
    else:  # an anchor per caption, in order
        own = sides[0][0].diagonal()[:, None]
    if negatives == "hardest" and scores.numel():
        hardest = [others.masked_fill(out, -math.inf).amax(1) for others, out in sides]
        total = (margin + torch.stack(hardest, 1) - own).clamp_min(0).sum()
        return reduced(total, 2 * len(image), reduction)
    total = scores.new_zeros(())
    for others, out in sides:
        hinge = (margin + others - own).clamp_min(0).masked_fill(out, 0)
        if negatives == "distance" and hinge.numel():
            drawn = draw_negatives(others, out, _width(dim))[:, None]
            total = total + hinge.gather(1, drawn).sum()
        else:
            total = total + _pick(hinge, out, negatives, top_k)
    return reduced(total, 2 * len(image), reduction)


def _width(dim: int | None) -> int:
    if dim is None or dim < 3:
        raise ValueError(
            "negatives='distance' needs dim, the width of the vectors that the scores are cosines "
            f"of, at least 3, got {dim}: set loss.dim"
        )
    return dim


def _pick(hinge: Tensor, excluded: Tensor, negatives: str, top_k: int) -> Tensor:
    """Sum the hinge values of the chosen negatives over anchors, (P, candidates) -> scalar."""
    if hinge.numel() == 0 or negatives == "all":
        return hinge.sum()
    # Excluded entries are 0: they do not change the sum, but the count must leave them out.
    count = (~excluded).sum(1).clamp(1, top_k)
    return (hinge.topk(min(top_k, hinge.shape[1]), dim=1).values.sum(1) / count).sum()


def _check_cosines(scores: Tensor) -> None:
    largest = float(scores.detach().abs().max()) if scores.numel() else 0.0
    if largest > 1 + ROUNDING:
        raise ValueError(
            f"negatives='distance' needs cosines, but these scores reach {largest:.3g}; use "
            "negatives='hardest', 'all' or 'top' with this matcher"
        )


class Triplet(Loss):
    """`triplet` as a loss object.

    The warm-up counts batches in training mode. Each call counts as a batch until the first
    `start_batch`; from then on only `start_batch` counts. `Matcher.losses` calls `start_batch`,
    because it ranks every score level of a batch.

    Args:
        margin: the margin.
        negatives: "hardest", "all", "top" or "distance", see `triplet`.
        top_k: number of negatives that "top" averages.
        warmup_steps: number of initial training batches with all negatives. This avoids the
            collapse to equal scores (loss = 2 x batch x margin) that hardest negatives can cause.
        reduction: "sum" or "mean".
        mask_same_image: exclude other captions of the same image from the negatives; off in the
            published systems.
        gather: score against the batches of all processes.
        dim: width D of the vectors, for "distance"; from the model on the command line.

    Raises:
        ValueError: an option is unknown or out of range; on the first batch, scores for "distance"
            that are not cosines.

    Examples:
        >>> import torch
        >>> from itm.losses import Triplet
        >>> float(Triplet(margin=0.2)(torch.eye(3)))
        0.0
        >>> round(float(Triplet(margin=0.2)(torch.zeros(3, 3))), 4)  # 2 x 3 x margin
        1.2
    """

    steps: Tensor

    def __init__(
        self,
        margin: float = 0.2,
        negatives: str = "hardest",
        top_k: int = 10,
        warmup_steps: int = 0,
        reduction: str = "sum",
        mask_same_image: bool = False,
        gather: bool = False,
        dim: int | None = None,
    ):
        super().__init__()
        check_choice("negatives", negatives, NEGATIVES)
        check_choice("reduction", reduction, REDUCTIONS)
        check_least(
            {"top_k": top_k, "margin": margin, "warmup_steps": warmup_steps},
            {"top_k": 1, "margin": 0, "warmup_steps": 0},
        )
        if negatives == "distance":
            _width(dim)
        self.dim = dim
        self._check_scores = negatives == "distance"
        self.margin = margin
        self.negatives = negatives
        self.top_k = top_k
        self.warmup_steps = warmup_steps
        self.reduction = reduction
        self.mask_same_image = mask_same_image
        self.gather = gather
        # Training batches so far; a buffer, so that a resumed run continues the count.
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self._calls_count = True

    def forward(
        self, scores: Tensor, pairs: Pairs | None = None, encoded: Sides | None = None
    ) -> Tensor:
        """Compute the loss of a score matrix (I, C); without `pairs` the diagonal is positive."""
        if self._calls_count:
            self._count()
        if self._check_scores:
            _check_cosines(scores)  # waits for the device, so only once
            self._check_scores = False
        if not self.warmup_steps:
            return self._loss(scores, pairs, self.negatives)
        # Compute both and choose on the device: both are cheap, and reading the counter would wait.
        return torch.where(
            self.steps.to(scores.device) <= self.warmup_steps,
            self._loss(scores, pairs, "all"),
            self._loss(scores, pairs, self.negatives),
        )

    def on_batch(self) -> None:
        """Count a batch; from now on, calls no longer count."""
        self._calls_count = False
        self._count()

    def _count(self) -> None:
        if self.training and self.warmup_steps:
            self.steps += 1

    def _loss(self, scores: Tensor, pairs: Pairs | None, negatives: str) -> Tensor:
        return triplet(
            scores,
            None if pairs is None else pairs.captions.image,
            same_image(pairs) if pairs is not None and self.mask_same_image else None,
            self.margin,
            negatives,
            self.top_k,
            self.reduction,
            self.dim,
        )

    def hinge(self) -> Hinge:
        """Return the options of this loss."""
        return Hinge(self.margin, self.negatives, self.reduction, self.warmup_steps)
