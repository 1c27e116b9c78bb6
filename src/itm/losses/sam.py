"""SAM, the semantic adaptive margin (Biten et al. 2022, "Is an image worth five sentences?").

The margin of a triplet is the difference in semantic relevance (CIDEr-D) between its positive and
its negative, so a negative caption that nearly describes the image is hardly pushed away.
"""

from typing import Any

import torch
from torch import Tensor

from itm.batch import Pairs, same_image
from itm.layers.functional import full, full_precision
from itm.losses.base import Loss, Sides
from itm.losses.sam_released import released_sam
from itm.losses.shared import (
    REDUCTIONS,
    anchors,
    check_numbers,
    check_relevance,
    check_temperature,
    check_weights,
    excluded_pairs,
    on_host,
    reduced,
)
from itm.losses.triplet import PLAIN, Triplet
from itm.utils.checks import check_choice
from itm.utils.distributed import gather_rows, rank_and_size

SAMPLING = ("random", "hardest", "easiest", "mixed", "all")


@full_precision
def sam(
    scores: Tensor,
    relevance: Tensor,
    positive: Tensor | None = None,
    ignore: Tensor | None = None,
    temperature: float = 3.0,
    sampling: str = "random",
    reduction: str = "sum",
) -> Tensor:
    """Sum [m + s(negative) - s(positive)]_+ over anchors in both directions (paper, figure 2).

    m = min((R(positive) - R(negative)) / temperature, 1), without gradient. m has no lower bound:
    it is negative if the "negative" describes the image better than the positive. Each matching
    pair (i, c) is an anchor twice: image i with other captions (R from row i), and caption c with
    other images (R from column c).

    Args:
        scores: (I, C), larger = better match.
        relevance: (I, C), relevance of caption c for image i.
        positive: as in `itm.losses.triplet`.
        ignore: (I, C) bool, further pairs to exclude from the negatives.
        temperature: tau ("metric_div" in the released code), above 0.
        sampling: how to choose one negative per anchor: "random", "hardest" (highest score),
            "easiest" (lowest score) or "mixed" (random or hardest, a fair coin per batch); "all"
            sums over all negatives instead.
        reduction: "sum" over anchors or "mean".

    Returns:
        Scalar, at least float32.

    Raises:
        ValueError: shapes do not match, the relevance contains NaN, an option is unknown, or the
            temperature is not above 0.
    """
    check_choice("sampling", sampling, SAMPLING)
    check_choice("reduction", reduction, REDUCTIONS)
    check_temperature(temperature)
    scores, relevance = full(scores), full(relevance).detach()
    check_relevance(relevance, scores)
    image, caption, matching = anchors(scores, positive)
    excluded = excluded_pairs(matching, ignore)
    if sampling == "mixed":
        sampling = "random" if torch.rand(()) < 0.5 else "hardest"
    own, value = scores[image, caption][:, None], relevance[image, caption][:, None]  # (P, 1)
    total = scores.new_zeros(())
    for others, relevances, out in (  # each anchor's row (P, C), then its column (P, I)
        (scores[image], relevance[image], excluded[image]),
        (scores.T[caption], relevance.T[caption], excluded.T[caption]),
    ):
        margin = ((value - relevances) / temperature).clamp_max(1)
        hinge = (margin + others - own).clamp_min(0).masked_fill(out, 0)
        if sampling != "all" and hinge.numel():
            hinge = hinge.gather(1, _pick(others.detach(), out, sampling)[:, None])
        total = total + hinge.sum()
    return reduced(total, 2 * len(image), reduction)


def _pick(others: Tensor, excluded: Tensor, sampling: str) -> Tensor:
    """Pick one candidate per anchor, (P, N) -> (P,): not an excluded one unless all are."""
    if sampling == "random":
        return torch.rand_like(others).masked_fill(excluded, -1).argmax(1)
    if sampling == "hardest":
        return others.masked_fill(excluded, float("-inf")).argmax(1)
    return others.masked_fill(excluded, float("inf")).argmin(1)


def check_order(image: Tensor) -> None:
    """Check that caption j belongs to image j, (C,) int64 rows of images.

    Raises:
        ValueError: it does not.
    """
    if not torch.equal(image, torch.arange(len(image), device=image.device)):
        raise ValueError(
            "the released picks and margins need one caption per image, in image order; "
            'use loss.reference_topk=false and loss.indexing="triplet"'
        )


class SAM(Loss):
    """A ranking loss plus weight x `sam`, or `sam` alone.

    The relevance comes with the batch (`pairs.relevance`). If the batch has none, as after
    gathering from several processes, the loss looks it up by `images.index` and `captions.index`
    in the index given to `set_relevance`, an `itm.relevance.CiderIndex` of the training captions.

    Args:
        margin: margin of the ranking loss.
        temperature: tau, divides the difference in relevance ("metric_div" in the released code).
        weight: weight of the SAM term ("cider_weight" in the released code).
        sampling: "random", "hardest", "easiest", "mixed" or "all", see `sam`.
        reference_topk: pick negatives as the released code does, see `itm.losses.sam_released`:
            "hardest" is called "soft" there, and "easiest" is called "hard". Requires one caption
            per image and mask_same_image=False.
        indexing: "triplet", or "released" for the margins of the released code, which picks one
            negative per row.
        alone: use weight x `sam` on every score level in place of the ranking loss.
        negatives: negatives of the ranking loss: "hardest", "all" or "top".
        warmup_steps: number of initial training batches in which the ranking loss takes all
            negatives.
        reduction: "sum" or "mean", for both losses.
        mask_same_image: exclude other captions of the same image from the negatives.
        gather: score against the batches of all processes.

    Examples:
        >>> import torch
        >>> from itm.losses import SAM
        >>> loss = SAM(temperature=10.0, weight=1.0)
        >>> loss.needs_relevance, float(loss.ranked(torch.eye(3)))
        (True, 0.0)
    """

    needs_relevance = True

    def __init__(
        self,
        margin: float = 0.2,
        temperature: float = 3.0,
        weight: float = 5.0,
        sampling: str = "random",
        reference_topk: bool = False,
        indexing: str = "triplet",
        alone: bool = False,
        negatives: str = "hardest",
        warmup_steps: int = 0,
        reduction: str = "sum",
        mask_same_image: bool = False,
        gather: bool = False,
    ):
        super().__init__()
        check_choice("sampling", sampling, SAMPLING)
        check_choice("indexing", indexing, ("triplet", "released"))
        released = reference_topk or indexing == "released"
        if released and (sampling == "all" or mask_same_image):
            raise ValueError(
                "sampling='all' and mask_same_image=True cannot be combined with "
                "reference_topk=True or indexing='released'"
            )
        check_choice("negatives", negatives, PLAIN)
        check_choice("reduction", reduction, REDUCTIONS)
        check_temperature(temperature)
        check_weights({"weight": weight})
        self.temperature = temperature
        self.weight = weight
        self.sampling = sampling
        self.reference_topk = reference_topk
        self.indexing = indexing
        self.alone = alone
        self.released = released
        self.reduction = reduction
        self.mask_same_image = mask_same_image
        self.gather = gather
        self.relevance_index: Any = None
        if not alone:
            self.ranking = Triplet(
                margin=margin,
                negatives=negatives,
                warmup_steps=warmup_steps,
                reduction=reduction,
                mask_same_image=mask_same_image,
            )

    @property
    def ranked(self) -> Loss:
        """Return the ranking loss, or SAM itself if `alone`."""
        return self if self.alone else self.ranking

    def set_relevance(self, index: Any) -> None:
        """Use this index for batches without relevance, see `Loss.set_relevance`."""
        self.relevance_index = index

    def check_batch(self, pairs: Pairs) -> None:
        """Check the relevance for NaN, and the order of captions for the released picks."""
        if pairs.relevance is not None:
            check_numbers(pairs.relevance)
        if self.released:
            check_order(pairs.captions.image)

    def forward(self, scores: Tensor, pairs: Pairs, encoded: Sides | None = None) -> Tensor:
        """Compute the ranking loss (unless alone) plus weight x SAM of a score matrix (I, C)."""
        added = self.weight * self._sam(scores, pairs)
        return added if self.alone else self.ranking(scores, pairs, encoded) + added

    def terms(
        self, scores: Tensor, pairs: Pairs, encoded: Sides | None = None
    ) -> dict[str, Tensor]:
        """Compute the SAM term, added on the main score level unless `alone`."""
        return {} if self.alone else {"sam": self.weight * self._sam(scores, pairs)}

    def _sam(self, scores: Tensor, pairs: Pairs) -> Tensor:
        relevance, image = self._relevance(pairs).to(scores.device), pairs.captions.image
        if not self.released:
            ignore = same_image(pairs) if self.mask_same_image else None
            return sam(
                scores, relevance, image, ignore, self.temperature, self.sampling, self.reduction
            )
        if on_host(image):
            check_order(image)
        return released_sam(
            scores,
            relevance,
            self.temperature,
            self.sampling,
            self.reference_topk,
            self.indexing,
            self.reduction,
        )

    def _relevance(self, pairs: Pairs) -> Tensor:
        """Return the batch's relevance (I, C), or look it up in the index.

        Raises:
            ValueError: the batch has no relevance and no index was set.
        """
        if pairs.relevance is not None:
            return pairs.relevance
        if self.relevance_index is None:
            raise ValueError(
                "loss=sam needs the relevance (I, C) of each caption for each image: pass "
                "relevance=... to matcher.pairs, or build the data module with "
                "needs=['relevance']; with gather=true on several processes, call "
                "loss.set_relevance(itm.relevance.CiderIndex(captions, caption_image)) with the "
                "training captions"
            )
        # Each process looks up its share of the captions of a gathered batch.
        rank, processes = rank_and_size() if self.gather else (0, 1)
        captions = pairs.captions.index.tensor_split(processes)[rank].cpu().numpy()
        block = self.relevance_index.batch(captions, pairs.images.index.cpu().numpy())
        columns = torch.from_numpy(block).T  # (share of C, I)
        check_numbers(columns)
        columns = columns.to(pairs.captions.index.device)
        return gather_rows(columns).T if self.gather else columns.T
