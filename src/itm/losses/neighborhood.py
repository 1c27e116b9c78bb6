"""Two-branch loss: bidirectional ranking plus neighbourhood constraints within each side.

Wang, Li, Huang, Lazebnik: Learning Two-Branch Neural Networks for Image-Text Matching Tasks,
TPAMI 2019, section 3.2. As in the authors' code, the mean is over the `top_k` most violated
constraints of all anchors.
"""

import torch
from torch import Tensor

from itm.batch import Pairs, same_image
from itm.layers.functional import distances, full, full_precision, global_vector
from itm.losses.base import Loss, Sides, as_loss
from itm.losses.shared import anchors, check_weights, excluded_pairs
from itm.utils.checks import check_least


@full_precision
def neighborhood(
    scores: Tensor,
    positive: Tensor | None = None,
    ignore: Tensor | None = None,
    margin: float = 0.05,
    top_k: int = 10,
    image_weight: float = 1.0,
    caption_weight: float = 1.5,
) -> Tensor:
    """Compute the ranking part: lambda1 x image anchors + lambda2 x caption anchors.

    Each matching pair is one anchor per direction. A direction is the mean, over all its anchors
    and their `top_k` negatives, of the largest [margin + s(negative) - s(positive)]_+; an anchor
    with fewer negatives counts less.

    Args:
        scores: (I, C), larger = better match; the embedding network uses the negative distance.
        positive: (C,) int64, row of each caption's image; or (I, C) bool mask of matching pairs;
            None = the diagonal.
        ignore: (I, C) bool, further pairs to exclude from the negatives.
        margin: the margin.
        top_k: number of negatives per anchor; all if there are fewer.
        image_weight: lambda1, weight of image anchors with captions as negatives.
        caption_weight: lambda2, weight of caption anchors with images as negatives.

    Returns:
        Scalar, at least float32.

    Raises:
        ValueError: shapes do not match, or `top_k` is below 1.
    """
    scores = full(scores)
    image, caption, matching = anchors(scores, positive)
    negative = ~excluded_pairs(matching, ignore)
    own = scores[image, caption]  # (P,)
    captions = violations(own, scores[image], negative[image], margin, top_k)  # (P, C)
    images = violations(own, scores.T[caption], negative.T[caption], margin, top_k)  # (P, I)
    return image_weight * captions + caption_weight * images


@full_precision
def neighbors(
    vectors: Tensor,
    same: Tensor,
    ignore: Tensor | None = None,
    margin: float = 0.05,
    top_k: int = 10,
) -> Tensor:
    """Compute the structure part: pull each row towards its group and away from other rows.

    Mean, over all rows and their `top_k` other rows, of the largest
    [margin + max d(row, same) - d(row, other)]_+.

    Args:
        vectors: (N, D).
        same: (N, N) bool, rows of the same group; the diagonal is True.
        ignore: (N, N) bool, further pairs to exclude from the other rows.
        margin: the margin.
        top_k: number of other rows that count per row.

    Returns:
        Scalar, at least float32.
    """
    apart = distances(vectors, vectors)
    farthest = apart.masked_fill(~same, 0).amax(1) if len(apart) else apart.sum(1)
    negative = ~excluded_pairs(same, ignore)
    return violations(-farthest, -apart, negative, margin, top_k)


def violations(own: Tensor, others: Tensor, negative: Tensor, margin: float, top_k: int) -> Tensor:
    """Average the `top_k` largest [margin + other - own]_+ of each row, all rows together.

    Args:
        own: (P,) score of each row's positive.
        others: (P, N) scores of the candidates.
        negative: (P, N) bool mask of the candidates that count.
        margin: the margin.
        top_k: number of candidates per row; a satisfied constraint counts as 0.

    Returns:
        Scalar; 0 without negatives.

    Raises:
        ValueError: `top_k` is below 1.
    """
    check_least({"top_k": top_k}, {"top_k": 1})
    hinge = (margin + others - own[:, None]).clamp_min(0).masked_fill(~negative, 0)
    worst = hinge.topk(min(top_k, hinge.shape[1]), 1).values
    return worst.sum() / negative.sum(1).clamp_max(top_k).sum().clamp_min(1)


@full_precision
def region_neighborhood(
    scores: Tensor,
    regions: Tensor,
    phrases: Tensor,
    image: Tensor,
    target: Tensor,
    margin: float = 0.05,
    top_k: int = 5,
) -> dict[str, Tensor]:
    """Compute the four constraints between the regions of images and phrases, unweighted.

    A matching pair is a phrase and a region that overlaps its box (IoU >= 0.5). Negatives are the
    image's regions with target -1, and phrases that do not match the region.

    Args:
        scores: (C, R) of each phrase with the regions of its own image, larger = better.
        regions: (I, R, D) embedded regions.
        phrases: (C, D) embedded phrases.
        image: (C,) int64, row of each phrase's image.
        target: (C, R) in {+1, 0, -1}: match, ignored (and padding), negative.
        margin: the margin.
        top_k: number of violations per anchor. "phrase_neighbors" takes only the worst violation:
            most phrases have no positive but themselves, which would dilute a mean.

    Returns:
        "region_anchor" (lambda1), "phrase_anchor" (lambda2), "region_neighbors" (lambda3) and
        "phrase_neighbors" (lambda4).
    """
    match, wrong = target > 0, target < 0
    phrase, region = match.nonzero(as_tuple=True)  # (P,) matching pairs
    near = -distances(regions[image[phrase], region], phrases)  # (P, C)
    elsewhere = image[phrase][:, None] != image  # (P, C) the phrase is about another image
    own = near.gather(1, phrase[:, None]).squeeze(1)
    apart = distances(regions, regions)[image[phrase], region]  # (P, R) within the image
    farthest = apart.masked_fill(~match[phrase], 0).amax(1)
    shared = match.float() @ match.float().T > 0  # (C, C) phrases with a common region
    shared &= image[:, None] == image
    shared |= torch.eye(len(image), dtype=torch.bool, device=image.device)
    return {
        "region_anchor": violations(own, near, elsewhere | wrong.T[region], margin, top_k),
        "phrase_anchor": violations(
            full(scores)[phrase, region], full(scores)[phrase], wrong[phrase], margin, top_k
        ),
        "region_neighbors": violations(-farthest, -apart, wrong[phrase], margin, top_k),
        "phrase_neighbors": neighbors(phrases, shared, None, margin, 1),
    }


class Neighborhood(Loss):
    """`neighborhood` plus `neighbors` on both sides, as a loss object.

    The defaults suit image-sentence retrieval. For phrases and regions (`ground`) the published
    values are image_weight=1, caption_weight=4, image_neighbors=0.1, caption_neighbors=0.1,
    top_k=5.

    Args:
        margin: margin of all constraints.
        top_k: number of violations per anchor.
        image_weight: lambda1, weight of image (region) anchors with captions as negatives.
        caption_weight: lambda2, weight of caption (phrase) anchors with images (regions) as
            negatives.
        image_neighbors: lambda3, weight of keeping copies of an image together; 0 if each image
            occurs once.
        caption_neighbors: lambda4, weight of keeping the captions of an image together.
        sentences: captions per image in a batch, read by the data module; with 1, a caption has no
            neighbour.
        mask_same_image: exclude other rows of the same image from the negatives; off in the
            published code.
        gather: score against the batches of all processes.

    Raises:
        ValueError: `margin`, `top_k` or `sentences` is too small, or a weight is negative.

    Examples:
        >>> from itm.losses import Neighborhood
        >>> loss = Neighborhood(margin=0.05, top_k=5)
        >>> loss.sentences  # captions per image that it needs in a batch
        2
    """

    def __init__(
        self,
        margin: float = 0.05,
        top_k: int = 10,
        image_weight: float = 1.0,
        caption_weight: float = 1.5,
        image_neighbors: float = 0.0,
        caption_neighbors: float = 0.05,
        sentences: int = 2,
        mask_same_image: bool = False,
        gather: bool = False,
    ):
        super().__init__()
        check_least(
            {"top_k": top_k, "margin": margin, "sentences": sentences},
            {"top_k": 1, "margin": 0, "sentences": 1},
        )
        check_weights(
            {
                "image_weight": image_weight,
                "caption_weight": caption_weight,
                "image_neighbors": image_neighbors,
                "caption_neighbors": caption_neighbors,
            }
        )
        self.margin = margin
        self.top_k = top_k
        self.image_weight = image_weight
        self.caption_weight = caption_weight
        self.image_neighbors = image_neighbors
        self.caption_neighbors = caption_neighbors
        self.sentences = sentences
        self.mask_same_image = mask_same_image
        self.gather = gather

    def forward(
        self, scores: Tensor, pairs: Pairs | None = None, encoded: Sides | None = None
    ) -> Tensor:
        """Compute ranking plus neighbour terms; without `pairs` the diagonal is positive."""
        total = self.ranking(scores, pairs, encoded)
        return total + sum(self.terms(scores, pairs, encoded).values())

    @property
    def ranked(self) -> Loss:
        """Return `ranking` as a loss."""
        return as_loss(self.ranking)

    def ranking(
        self, scores: Tensor, pairs: Pairs | None = None, encoded: Sides | None = None
    ) -> Tensor:
        """Compute the part that depends on scores only."""
        return neighborhood(
            scores,
            None if pairs is None else pairs.captions.image,
            same_image(pairs) if pairs is not None and self.mask_same_image else None,
            self.margin,
            self.top_k,
            self.image_weight,
            self.caption_weight,
        )

    def terms(
        self, scores: Tensor, pairs: Pairs | None = None, encoded: Sides | None = None
    ) -> dict[str, Tensor]:
        """Compute the terms within each side; a term is 0 if no row has a neighbour."""
        if pairs is None or encoded is None:
            return {}
        row, identity = pairs.captions.image, pairs.images.index
        terms = {}
        if self.image_neighbors:
            same = identity[:, None] == identity
            terms["image_neighbors"] = self.image_neighbors * self._neighbors(
                global_vector(encoded[0]), same, None
            )
        if self.caption_neighbors:
            same = row[:, None] == row
            copies = identity[row][:, None] == identity[row] if self.mask_same_image else None
            terms["caption_neighbors"] = self.caption_neighbors * self._neighbors(
                global_vector(encoded[1]), same, copies
            )
        return terms

    def _neighbors(self, vectors: Tensor, same: Tensor, ignore: Tensor | None) -> Tensor:
        # If no group has a second row, the loss would only push rows apart.
        value = neighbors(vectors, same, ignore, self.margin, self.top_k)
        return value * (same.sum() > len(same))

    def ground(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> dict[str, Tensor]:
        """Compute the four weighted terms of `region_neighborhood`, see `Loss.ground`."""
        regions, phrases = encoded[0].parts, encoded[1].vector
        assert regions is not None and phrases is not None and pairs.target is not None
        weights = {
            "region_anchor": self.image_weight,
            "phrase_anchor": self.caption_weight,
            "region_neighbors": self.image_neighbors,
            "phrase_neighbors": self.caption_neighbors,
        }
        image, target = pairs.captions.image, pairs.target
        terms = region_neighborhood(
            scores, regions, phrases, image, target, self.margin, self.top_k
        )
        return {name: weights[name] * value for name, value in terms.items()}
