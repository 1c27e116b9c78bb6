"""SAM, the semantic adaptive margin (Biten et al. 2022, "Is an image worth five sentences?").

The fixed margin of a triplet becomes the difference in semantic relevance (CIDEr-D) between its
positive and its negative, so that a caption that nearly describes an image is hardly pushed away.
"""

from typing import Any

import torch
from torch import Tensor

from itm.batch import Pairs, same_image
from itm.layers.functional import full, full_precision
from itm.losses.base import Loss, Sides
from itm.losses.sam_released import released_sam
from itm.losses.shared import REDUCTIONS, anchors, check_relevance, reduced
from itm.losses.triplet import Triplet
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
    """Sum over anchors of [m + s(negative) - s(positive)]_+ in both directions (paper, figure 2).

    m = min((R(positive) - R(negative)) / temperature, 1), without gradient and without a lower
    bound: it is negative where the "negative" describes the image better than the positive does.
    Each matching pair (i, c) is an anchor twice: image i against another caption, with R along row
    i, and caption c against another image, with R along column c.

    Args:
        scores: (I, C), larger = better match.
        relevance: (I, C), relevance of caption c for image i.
        positive: as in `itm.losses.triplet`.
        ignore: (I, C) bool, pairs that are not negatives (beside the matching ones).
        temperature: tau ("metric_div" of the release), above 0.
        sampling: the one negative of each anchor: "random", "hardest" (highest score), "easiest"
            (lowest score) or "mixed" (a fair coin per batch: random or hardest); or "all" of them.
        reduction: "sum" over anchors or "mean".

    Returns:
        Scalar, at least float32.

    Raises:
        ValueError: shapes that do not fit, NaN in the relevance, or an unknown option.
    """
    check_choice("sampling", sampling, SAMPLING)
    check_choice("reduction", reduction, REDUCTIONS)
    scores, relevance = full(scores), full(relevance).detach()
    check_relevance(relevance, scores)
    image, caption, matching = anchors(scores, positive)
    excluded = matching if ignore is None else matching | ignore
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
    """One candidate per anchor that is not excluded (any, where all are); (P, N) -> (P,)."""
    if sampling == "random":
        return torch.rand_like(others).masked_fill(excluded, -1).argmax(1)
    if sampling == "hardest":
        return others.masked_fill(excluded, float("-inf")).argmax(1)
    return others.masked_fill(excluded, float("inf")).argmin(1)


class SAM(Loss):
    """A ranking loss plus weight x `sam`, or `sam` alone.

    The relevance comes with the batch (`pairs.relevance`). Where processes gather their batches, it
    is looked up by `images.index` and `captions.index` in the index given to `set_relevance`, an
    `itm.relevance.CiderIndex` of the training captions.

    Args:
        margin: of the ranking loss.
        temperature: tau, divides the difference in relevance ("metric_div" of the release).
        weight: of the SAM term ("cider_weight" of the release).
        sampling: "random", "hardest", "easiest", "mixed" or "all", see `sam`.
        reference_topk: pick as the release does, see `itm.losses.sam_released`: "hardest" is its
            "soft" and "easiest" its "hard". One caption per image only, no mask_same_image.
        indexing: "triplet", or "released" for the margins of the release (picks are per row then).
        alone: no other ranking loss: weight x `sam` takes its place on every score level.
        negatives: of the ranking loss: "hardest", "all" or "top".
        warmup_steps: of the ranking loss: first training batches with all negatives.
        reduction: "sum" or "mean", of both.
        mask_same_image: captions of the same image are not negatives of each other.
        gather: score against the batches of all processes.
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
            raise ValueError("the released SAM has neither sampling='all' nor mask_same_image=True")
        if temperature <= 0:
            raise ValueError(f"temperature={temperature}: expected a number above 0")
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
        """The ranking loss; when alone, SAM itself."""
        return self if self.alone else self.ranking

    def set_relevance(self, index: Any) -> None:
        """Look up the relevance of batches that do not bring it, see `Loss.set_relevance`."""
        self.relevance_index = index

    def forward(self, scores: Tensor, pairs: Pairs, encoded: Sides | None = None) -> Tensor:
        """Ranking loss (unless alone) + weight x SAM of a score matrix (I, C)."""
        added = self.weight * self._sam(scores, pairs)
        return added if self.alone else self.ranking(scores, pairs, encoded) + added

    def terms(
        self, scores: Tensor, pairs: Pairs, encoded: Sides | None = None
    ) -> dict[str, Tensor]:
        """What is added on the main score level."""
        return {} if self.alone else {"sam": self.weight * self._sam(scores, pairs)}

    def _sam(self, scores: Tensor, pairs: Pairs) -> Tensor:
        relevance, image = self._relevance(pairs).to(scores.device), pairs.captions.image
        if not self.released:
            ignore = same_image(pairs) if self.mask_same_image else None
            return sam(
                scores, relevance, image, ignore, self.temperature, self.sampling, self.reduction
            )
        if not torch.equal(image, torch.arange(len(scores), device=image.device)):
            raise ValueError(
                "the released picks and margins need one caption per image, in the same order; "
                'use loss.reference_topk=false and loss.indexing="triplet"'
            )
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
        """(I, C): as it came with the batch, else looked up.

        Raises:
            ValueError: neither is there.
        """
        if pairs.relevance is not None:
            return pairs.relevance
        if self.relevance_index is None:
            raise ValueError(
                "loss=sam needs the relevance (I, C) of each caption for each image: pass "
                "relevance=... to matcher.pairs, or build the data module with "
                "needs=['relevance']; with gather=true on several processes, where a batch knows "
                "only its own pairs, call loss.set_relevance(itm.relevance.CiderIndex(captions, "
                "caption_image)) with the training captions"
            )
        # Every process looks up a share of the captions of a gathered batch.
        rank, processes = rank_and_size() if self.gather else (0, 1)
        captions = pairs.captions.index.tensor_split(processes)[rank].cpu().numpy()
        block = self.relevance_index.batch(captions, pairs.images.index.cpu().numpy())
        columns = torch.from_numpy(block).T.to(pairs.captions.index.device)  # (share of C, I)
        return gather_rows(columns).T if self.gather else columns.T
