"""SAM as the released code computes it, to reproduce numbers made with that code.

The released code differs from the paper's figure 2 (`itm.losses.sam`) in two ways. First, it picks
one negative per image row in both directions; in text-to-image each image then is the negative of
one caption, and a caption may have no negative. Second, it gives the entry in column j the margin
of row j, computed from row j's pick in the *other* direction, not the margin of the triplet.
"""

import torch
from torch import Tensor

from itm.layers.functional import full, full_precision
from itm.losses.shared import REDUCTIONS, check_relevance, check_temperature, reduced
from itm.utils.checks import check_choice


@full_precision
def released_sam(
    scores: Tensor,
    relevance: Tensor,
    temperature: float = 3.0,
    sampling: str = "random",
    reference_topk: bool = True,
    indexing: str = "released",
    reduction: str = "sum",
    picks: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Sum [m + s(negative) - s(positive)]_+ over rows, with one pick per row and direction.

    Args:
        scores: (B, B), row i matches column i.
        relevance: (B, B), relevance of caption j for image i.
        temperature: as in `itm.losses.sam` ("metric_div" in the released code).
        sampling: "random", "hardest" ("soft" in the released code), "easiest" ("hard" there), or
            "mixed" (a fair coin per batch: "random" or "easiest").
        reference_topk: take the second most extreme entry of the whole row, which may be the
            positive itself; otherwise the most extreme negative.
        indexing: "released", or "triplet" for the margin of the picked triplet.
        reduction: "sum", or "mean" over the 2 B picks.
        picks: picks to use instead of sampling, (B,) int64 each: for image row i, the column of its
            negative caption, and the column of the caption for which image i is the negative.

    Returns:
        Scalar, at least float32.

    Raises:
        ValueError: scores are not square, the relevance has another shape or contains NaN, an
            option is unknown, or the temperature is not above 0.
    """
    check_choice("sampling", sampling, ("random", "hardest", "easiest", "mixed"))
    check_choice("indexing", indexing, ("released", "triplet"))
    check_choice("reduction", reduction, REDUCTIONS)
    check_temperature(temperature)
    scores, relevance = full(scores), full(relevance).detach()
    check_relevance(relevance, scores)
    if scores.shape[0] != scores.shape[1]:
        raise ValueError(
            f"scores {tuple(scores.shape)} are not square: the released picks and margins need one "
            'caption per image; use reference_topk=False and indexing="triplet"'
        )
    own, value = scores.diag(), relevance.diag()
    above = (scores - own[:, None], scores - own)  # minus row i's positive; minus column j's
    if picks is None:
        if sampling == "mixed":
            sampling = "random" if torch.rand(()) < 0.5 else "easiest"
        picks = (
            _pick(above[0], sampling, reference_topk),
            _pick(above[1], sampling, reference_topk),
        )
    to_caption, to_image = picks[0][:, None], picks[1][:, None]  # (B, 1)
    if indexing == "released":
        # One margin per row, crossed: image-to-text uses the text-to-image picks and vice versa.
        rows = tuple(value - relevance.gather(1, pick)[:, 0] for pick in (to_image, to_caption))
        differences = (rows[0][picks[0]], rows[1][picks[1]])
    else:
        differences = (
            value - relevance.gather(1, to_caption)[:, 0],
            value[picks[1]] - relevance.gather(1, to_image)[:, 0],
        )
    total = scores.new_zeros(())
    for above_own, pick, difference in zip(above, (to_caption, to_image), differences, strict=True):
        margin = (difference / temperature).clamp_max(1)
        total = total + (above_own.gather(1, pick)[:, 0] + margin).clamp_min(0).sum()
    return reduced(total, 2 * len(scores), reduction)


def _pick(above: Tensor, sampling: str, reference_topk: bool) -> Tensor:
    """Pick one column per row, (B, B) -> (B,)."""
    if len(above) < 2:
        return torch.zeros(len(above), dtype=torch.long, device=above.device)
    diagonal = torch.eye(len(above), dtype=torch.bool, device=above.device)
    if sampling == "random":
        return torch.rand_like(above).masked_fill(diagonal, -1).argmax(1)
    extreme = above.detach() if sampling == "hardest" else -above.detach()
    if reference_topk:
        return extreme.topk(2, dim=1).indices[:, 1]
    return extreme.masked_fill(diagonal, float("-inf")).argmax(1)
