"""What both two-branch networks share: the branches, and region-phrase mode."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from itm.batch import Captions, Encoded, Images, Pairs
from itm.layers.functional import full, l2norm, masked_mean, xavier_
from itm.layers.sentence import SentenceEncoder
from itm.matcher.explanation import Details, array
from itm.matcher.matcher import Matcher

LEVELS = ("image", "region")
EPS = 1e-12  # of the norms: only for zero vectors


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over rows (n, D) that can keep its statistics as TensorFlow does.

    A batch of one row has no variance; it is normalised by the running statistics and leaves them
    as they are.

    Args:
        width: D.
        momentum: weight of the batch in the running statistics.
        eps: added to the variance.
        biased: let the running variance take the biased variance of the batch.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, width: int, momentum: float, eps: float, biased: bool):
        super().__init__(width, eps, momentum)
        self.weigh = momentum
        self.biased = biased

    def forward(self, x: Tensor) -> Tensor:
        """(n, D) -> (n, D)."""
        mean, var = self.running_mean, self.running_var
        if not self.training or len(x) < 2:
            return batch_norm(x, mean, var, self.weight, self.bias, False, eps=self.eps)
        # On copies, because what autograd has seen must not change before backward.
        mean, var = mean.clone(), var.clone()
        out = batch_norm(x, mean, var, self.weight, self.bias, True, self.weigh, self.eps)
        with torch.no_grad():
            if self.biased:  # torch has added weigh * n / (n - 1) * the biased variance
                added = var - (1 - self.weigh) * self.running_var
                var = var - added / len(x)
            self.running_mean.copy_(mean)
            self.running_var.copy_(var)
            self.num_batches_tracked += 1
        return out


class Dense(nn.Module):
    """Linear -> batch norm -> ReLU, over rows (n, in) -> (n, out).

    Args:
        inputs: width of the input.
        outputs: width of the output.
        norm: "momentum", "eps" and "biased" of `BatchNorm`.
    """

    def __init__(self, inputs: int, outputs: int, norm: dict[str, Any]):
        super().__init__()
        self.linear = xavier_(nn.Linear(inputs, outputs))
        self.norm = BatchNorm(outputs, **norm)

    def forward(self, x: Tensor) -> Tensor:
        """(n, in) -> (n, out)."""
        return self.norm(self.linear(x)).relu()


class Branch(nn.Module):
    """Dense -> dropout -> linear, over rows (n, in) -> (n, out).

    Args:
        inputs: width of the input.
        hidden: width between the two maps.
        outputs: width of the output.
        dropout: on the hidden values, training only.
        norm: "momentum", "eps" and "biased" of `BatchNorm`.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, dropout: float, norm: dict[str, Any]
    ):
        super().__init__()
        self.first = Dense(inputs, hidden, norm)
        self.dropout = nn.Dropout(dropout)
        self.second = xavier_(nn.Linear(hidden, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(n, in) -> (n, out)."""
        return self.second(self.dropout(self.first(x)))


class TwoBranch(Matcher):
    """Base of the two networks, which set its attributes.

    Attributes:
        level: "image" or "region", what a caption is compared with.
        text: captions -> sentence vectors.
        image: branch of image or region vectors.
        sentence: branch of sentence vectors.
        text_lr_scale: learning rate of the sentence branch relative to the rest.
    """

    level: str
    text: SentenceEncoder
    image: Branch
    sentence: Branch
    text_lr_scale: float

    def encode_images(self, images: Images) -> Encoded:
        """Vectors (I, D) of the mean region, or at level "region" all regions (I, R, D)."""
        if self.level == "region":
            return Encoded(None, self.encode_regions(images), images.mask)
        return Encoded(l2norm(self.image(masked_mean(images.regions, images.mask)), eps=EPS))

    def encode_regions(self, images: Images) -> Tensor:
        """Region vectors (I, R, D) of unit length, zero beyond the mask."""
        return l2norm(self.branch_regions(images), eps=EPS)

    def branch_regions(self, images: Images) -> Tensor:
        """The image branch on every real region, whose statistics the batch norm sees."""
        rows = full(self.image(images.regions[images.mask]))  # (n, D)
        regions = rows.new_zeros(*images.mask.shape, rows.shape[1])
        return regions.masked_scatter(images.mask[..., None], rows)  # (I, R, D)

    def encode_captions(self, captions: Captions) -> Encoded:
        """Vectors (C, D)."""
        return Encoded(l2norm(self.sentence(self.text(captions)), eps=EPS))

    # Phrases and regions ----------------------------------------------------------------------

    def region_scores(self, regions: Tensor, mask: Tensor, captions: Encoded) -> Tensor:
        """(N, R) scores of each of N captions with the regions (N, R, D) of its own row."""
        raise NotImplementedError

    def ground(self, images: Images, captions: Captions, image: Tensor | None = None) -> Tensor:
        """Scores (B, R) of each phrase with the regions of its image.

        Padded regions score -inf, so that `argmax(1)` is the region the phrase means.

        Args:
            images: I images, each encoded once.
            captions: B phrases.
            image: (B,) row of each phrase's image; row by row when None.

        Raises:
            ValueError: the counts differ and there are no rows.
        """
        if image is None and len(images.regions) != len(captions.lengths):
            raise ValueError(
                f"{len(images.regions)} images and {len(captions.lengths)} phrases: ground takes "
                "them row by row, or needs image=(row of each phrase's image)"
            )
        regions, mask = self.encode_regions(images), images.mask
        if image is not None:
            regions, mask = regions[image], mask[image]
        scores = self.region_scores(regions, mask, self.encode_captions(captions))
        return full(scores).masked_fill(~mask, float("-inf"))

    def losses(self, pairs: Pairs) -> dict[str, Tensor]:
        """See `Matcher.losses`; at level "region" with targets those of `ground_losses`."""
        if self.level == "region" and pairs.target is not None:
            return self.ground_losses(pairs)
        return super().losses(pairs)

    def ground_losses(self, pairs: Pairs) -> dict[str, Tensor]:
        """Losses of phrases with marked regions: name -> scalar, "total" is their sum.

        Args:
            pairs: I images and C phrases that belong together through `captions.image`; `target`
                (C, R) marks each region of the phrase's image: +1 match (IoU >= 0.5 with its box;
                CITE trains with 0.6), -1 negative, 0 ignored.

        Raises:
            ValueError: a target of another shape, or a loss without a form for regions.
        """
        mask = pairs.images.mask[pairs.captions.image]  # (C, R)
        if pairs.target is None or pairs.target.shape != mask.shape:
            given = None if pairs.target is None else tuple(pairs.target.shape)
            raise ValueError(
                f"target is {given}, expected {tuple(mask.shape)}: one row per phrase, one column "
                "per region of its image"
            )
        regions = self.encode_regions(pairs.images)
        images, captions = Encoded(None, regions, pairs.images.mask), self.encode_captions(pairs[1])
        scores = full(self.region_scores(regions[pairs.captions.image], mask, captions))
        pairs = pairs._replace(target=pairs.target.masked_fill(~mask, 0))
        terms = self.extra_losses(pairs, images, captions)
        scores = scores.masked_fill(~mask, float("-inf"))
        loss = self.objective
        loss.start_batch()
        terms |= loss.ground(scores, pairs, (images, captions))
        return terms | {"total": torch.stack([full(term) for term in terms.values()]).sum()}

    def details(self, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
        """How well the sentence fits each region.

        Raises:
            ValueError: level "image", which does not see single regions.
        """
        if self.level != "region":
            raise ValueError(
                "this two-branch network compares the mean of all regions; train one with "
                "model.level=region to see single regions"
            )
        scores = array(self.ground(pairs.images, pairs.captions)[0])
        return Details(regions={"how well the sentence fits each region": scores})

    # Training ---------------------------------------------------------------------------------

    def extra_losses(self, pairs: Pairs, images: Encoded, captions: Encoded) -> dict[str, Tensor]:
        """The pull towards pretrained word vectors, when `text` has a `word_reg`."""
        return self.text.penalty()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Sentence branch and transformer at their own rates; word vectors without weight decay."""
        groups: list[dict[str, Any]] = [
            {
                "name": "sentence",
                "params": list(self.sentence.parameters()),
                "lr_scale": self.text_lr_scale,
            }
        ]
        groups += self.text.parameter_groups()
        known = {id(p) for group in groups for p in group["params"]}
        rest = [p for p in self.parameters() if id(p) not in known]
        return [{"name": "main", "params": rest}, *groups]
