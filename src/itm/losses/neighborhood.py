"""The two-branch networks' loss: ranking in both directions, and neighbours that stay together.

Wang, Li, Huang, Lazebnik: Learning Two-Branch Neural Networks for Image-Text Matching Tasks,
TPAMI 2019, section 3.2; details as in the authors' code (mean over the `top_k` most violated
constraints of each anchor).
"""

import torch
from torch import Tensor

from itm.batch import Pairs, same_image
from itm.layers.functional import distances, full, full_precision, global_vector
from itm.losses.base import Loss, Sides, as_loss
from itm.losses.shared import anchors


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
    """The ranking part: lambda1 x image anchors + lambda2 x caption anchors.

    Each anchor gives the mean of its `top_k` largest [margin + s(negative) - s(positive)]_+, and
    each direction the mean over its anchors: one per matching pair.

    Args:
        scores: (I, C), larger = better match; minus the distance for the embedding network.
        positive: (C,) int64, row of each caption's image; or (I, C) bool, which pairs match; the
            diagonal when None.
        ignore: (I, C) bool, pairs that are not negatives (beside the matching ones).
        margin: the margin.
        top_k: how many negatives count per anchor; all of them where there are fewer.
        image_weight: lambda1, an image's caption against other captions.
        caption_weight: lambda2, a caption's image against other images.

    Returns:
        Scalar, at least float32.

    Raises:
        ValueError: shapes that do not fit.
    """
    scores = full(scores)
    image, caption, matching = anchors(scores, positive)
    negative = ~(matching if ignore is None else matching | ignore)
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
    """The structure part: each row is nearer to all rows of its own kind than to any other.

    Mean over rows of the mean of the `top_k` largest [margin + max d(row, same) - d(row, other)]_+.

    Args:
        vectors: (N, D).
        same: (N, N) bool, rows that belong together; the diagonal is True.
        ignore: (N, N) bool, rows that are neither the same nor others.
        margin: the margin.
        top_k: how many others count per row.
    """
    apart = distances(vectors, vectors)
    farthest = apart.masked_fill(~same, 0).amax(1) if len(apart) else apart.sum(1)
    negative = ~(same if ignore is None else same | ignore)
    return violations(-farthest, -apart, negative, margin, top_k)


def violations(own: Tensor, others: Tensor, negative: Tensor, margin: float, top_k: int) -> Tensor:
    """Mean of the `top_k` largest [margin + other - own]_+ of each row, over all rows.

    Args:
        own: (P,) what each row's positive scores.
        others: (P, N) what the candidates score.
        negative: (P, N) bool, which candidates count.
        margin: the margin.
        top_k: how many count per row; satisfied constraints count with their zeros.

    Returns:
        Scalar; 0 without any negatives.
    """
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
    """The four constraints between the regions of images and phrases, unweighted.

    A matching pair is a phrase with a region that overlaps its box (IoU >= 0.5). Other regions of
    the image that are marked so, and phrases that do not match the region, are negatives.

    Args:
        scores: (C, R), of each phrase with the regions of its own image, larger = better.
        regions: (I, R, D) embedded regions.
        phrases: (C, D) embedded phrases.
        image: (C,) int64, row of each phrase's image.
        target: (C, R) in {+1, 0, -1}: match, ignored (and padding), negative.
        margin: the margin.
        top_k: how many violations count per anchor. Among phrases only the worst one counts: most
            phrases have no other positive than themselves, which would dilute a mean.

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

    The defaults are those of image-sentence retrieval. For phrases and regions (`ground`) the
    published weights are image_weight=1, caption_weight=4, image_neighbors=0.1,
    caption_neighbors=0.1, top_k=5.

    Args:
        margin: the margin of all constraints.
        top_k: how many violations count per anchor.
        image_weight: lambda1, image (region) anchors against captions.
        caption_weight: lambda2, caption (phrase) anchors against images (regions).
        image_neighbors: lambda3, copies of an image stay together (0 where each image comes once).
        caption_neighbors: lambda4, captions of an image stay together.
        sentences: captions per image in a batch, read by the data module; with 1 a caption has no
            neighbour but itself.
        mask_same_image: other rows of the same image are not negatives; off in the published code.
        gather: score against the batches of all processes.
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
        if top_k < 1:
            raise ValueError(f"top_k={top_k}: expected at least 1")
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
        """Scalar: ranking plus neighbours; without `pairs` the diagonal is positive."""
        total = self.ranking(scores, pairs, encoded)
        return total + sum(self.terms(scores, pairs, encoded).values())

    @property
    def ranked(self) -> Loss:
        """`ranking` as a loss."""
        return as_loss(self.ranking)

    def ranking(
        self, scores: Tensor, pairs: Pairs | None = None, encoded: Sides | None = None
    ) -> Tensor:
        """The part that looks at scores only."""
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
        """The part that looks at distances within one side; 0 where no row has a neighbour."""
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
        # Without a second row of its kind a row would only be pushed away from all others.
        value = neighbors(vectors, same, ignore, self.margin, self.top_k)
        return value * (same.sum() > len(same))

    def ground(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> dict[str, Tensor]:
        """The four weighted terms of `region_neighborhood`, see `Loss.ground`."""
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
