"""Shared parts of the two-branch networks: the branches, and training on regions and phrases."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, pad

from itm.batch import Captions, Encoded, Images, Pairs
from itm.layers.batch_norm import masked_batch_norm
from itm.layers.dropout import Dropout
from itm.layers.functional import full, l2norm, masked_mean, xavier_
from itm.layers.sentence import SentenceEncoder
from itm.matcher.explanation import Details, array
from itm.matcher.loss_terms import begin_batch
from itm.matcher.matcher import Matcher

LEVELS = ("image", "region")
EPS = 1e-12  # added to norms; matters only for zero vectors


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over rows (n, D) that can track its statistics as TensorFlow does.

    A batch of one row has no variance; it is normalised by the running statistics and does not
    change them.

    Args:
        width: D.
        momentum: weight of the batch in the running statistics.
        eps: added to the variance.
        biased: track the biased variance of the batch in the running variance.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, width: int, momentum: float, eps: float, biased: bool):
        super().__init__(width, eps, momentum)
        self.biased = biased

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, D) -> (n, D)."""
        mean, var = self.running_mean, self.running_var
        if not self.training or len(x) < 2:
            return batch_norm(x, mean, var, self.weight, self.bias, False, eps=self.eps)
        # Use copies: tensors that autograd has saved must not change before backward.
        mean, var = mean.clone(), var.clone()
        # None, set by Lightning's weight averaging, means the mean of all batches.
        weigh = self.momentum
        if weigh is None:
            weigh = 1 / (1 + int(self.num_batches_tracked))
        out = batch_norm(x, mean, var, self.weight, self.bias, True, weigh, self.eps)
        with torch.no_grad():
            if self.biased:  # torch has added weigh * n / (n - 1) x the biased variance
                added = var - (1 - weigh) * self.running_var
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
        # Kept here too, because Lightning may replace the norm by a synchronised one.
        self.biased = self.norm.biased

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (n, in) -> (n, out); statistics cover the rows in the mask (n,), None = all."""
        x = self.linear(x)
        if mask is None:
            return self.norm(x).relu()
        return masked_batch_norm(self.norm, x[None], mask[None], self.biased)[0].relu()


class Branch(nn.Module):
    """Dense -> dropout -> linear, over rows (n, in) -> (n, out).

    Args:
        inputs: width of the input.
        hidden: width between the two maps.
        outputs: width of the output.
        dropout: dropout on the hidden values in training.
        norm: "momentum", "eps" and "biased" of `BatchNorm`.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, dropout: float, norm: dict[str, Any]
    ):
        super().__init__()
        self.first = Dense(inputs, hidden, norm)
        self.dropout = Dropout(dropout)
        self.second = xavier_(nn.Linear(hidden, outputs))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (n, in) -> (n, out); mask (n,) as in `Dense`."""
        return self.second(self.dropout(self.first(x, mask)))


def real_rows(
    function: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, mask: Tensor
) -> Tensor:
    """Apply a function with batch norms to the real rows of x, (..., in) -> (..., out).

    A CPU skips the other rows. On a device this would wait for their number, so there the function
    takes all rows and a mask for its statistics.

    Args:
        function: rows (n, in) and a mask (n,) or None -> (n, out).
        x: (..., in).
        mask: (...), True = real.

    Returns:
        (..., out) in at least float32, 0 where the mask is False.
    """
    if mask.device.type == "cpu":
        rows = full(function(x[mask], None))
        return rows.new_zeros(*mask.shape, rows.shape[1]).masked_scatter(mask[..., None], rows)
    rows = full(function(x.reshape(-1, x.shape[-1]), mask.flatten()))
    return rows.view(*mask.shape, -1).masked_fill(~mask[..., None], 0)


def scoring_regions(mask: Tensor) -> Tensor:
    """Mark the regions (I, R) that score: the real ones, or one of zeros where there are none.

    A score of -inf would make the loss NaN.
    """
    none = ~mask.any(1, keepdim=True)
    return mask | pad(none, (0, mask.shape[1] - 1))


class TwoBranch(Matcher):
    """Base class of the two networks, which set its attributes.

    Attributes:
        level: what a caption is compared with, "image" or "region".
        text: sentence encoder.
        image: branch for image or region features.
        sentence: branch for sentence vectors.
        text_lr_scale: learning rate of the sentence branch relative to the rest.
    """

    level: str
    text: SentenceEncoder
    image: Branch
    sentence: Branch
    text_lr_scale: float

    @classmethod
    def lacks_sizes(cls, arguments: Mapping[str, Any]) -> bool:
        """Tell whether the size that the text encoder needs is missing."""
        name = (arguments.get("text") or {}).get("name", "mean")
        if name == "bert":
            return False
        return arguments.get("sentence_dim" if name == "vectors" else "vocab_size") is None

    def encode_images(self, images: Images) -> Encoded:
        """Compute vectors (I, D) of the mean region, or (I, R, D) of all at level "region"."""
        if self.level == "region":
            return Encoded(None, self.encode_regions(images), images.mask)
        return Encoded(l2norm(self.image(masked_mean(images.regions, images.mask)), eps=EPS))

    def encode_regions(self, images: Images) -> Tensor:
        """Compute region vectors (I, R, D) of unit length, zero at padding."""
        return l2norm(self.branch_regions(images), eps=EPS)

    def branch_regions(self, images: Images) -> Tensor:
        """Apply the image branch, whose batch norm must see real regions only, (I, R, D)."""
        return real_rows(self.image, images.regions, images.mask)

    def encode_captions(self, captions: Captions) -> Encoded:
        """Compute caption vectors (C, D)."""
        return Encoded(l2norm(self.sentence(self.text(captions)), eps=EPS))

    # Phrases and regions ----------------------------------------------------------------------

    def region_scores(self, regions: Tensor, mask: Tensor, captions: Encoded) -> Tensor:
        """Score each of N captions with the regions (N, R, D) of its row, (N, R)."""
        raise NotImplementedError

    def ground(self, images: Images, captions: Captions, image: Tensor | None = None) -> Tensor:
        """Score each phrase with the regions of its image, (B, R).

        Padded regions score -inf, so `argmax(1)` is the best region of each phrase.

        Args:
            images: I images, each encoded once.
            captions: B phrases.
            image: (B,) row of each phrase's image; None = phrase b belongs to image b.

        Raises:
            ValueError: the counts differ and `image` is None.
        """
        if image is None and len(images.regions) != len(captions.lengths):
            raise ValueError(
                f"got {len(images.regions)} images and {len(captions.lengths)} phrases: pass one "
                "image per phrase, or image=(row of each phrase's image)"
            )
        regions, mask = self.encode_regions(images), images.mask
        if image is not None:
            regions, mask = regions[image], mask[image]
        scores = self.region_scores(regions, mask, self.encode_captions(captions))
        return full(scores).masked_fill(~mask, float("-inf"))

    def losses(self, pairs: Pairs) -> dict[str, Tensor]:
        """Compute the losses, by `ground_losses` at level "region" with targets; see `Matcher`."""
        if self.level == "region" and pairs.target is not None:
            return self.ground_losses(pairs)
        return super().losses(pairs)

    def ground_losses(self, pairs: Pairs) -> dict[str, Tensor]:
        """Compute the losses of phrases with labelled regions: name -> scalar, "total" is the sum.

        Args:
            pairs: I images and C phrases that belong together through `captions.image`; `target`
                (C, R) labels each region of the phrase's image: +1 match (IoU >= 0.5 with its box;
                CITE trains with 0.6), -1 negative, 0 ignored.

        Raises:
            ValueError: the target has another shape, the loss is not defined for regions, or an
                option is set that applies to whole images only.
        """
        self._check_region_options()
        mask = pairs.images.mask[pairs.captions.image]  # (C, R)
        if pairs.target is None or pairs.target.shape != mask.shape:
            given = None if pairs.target is None else tuple(pairs.target.shape)
            raise ValueError(
                f"target must be {tuple(mask.shape)}, one row per phrase and one column per region "
                f"of its image, got {given}"
            )
        regions = self.encode_regions(pairs.images)
        images, captions = Encoded(None, regions, pairs.images.mask), self.encode_captions(pairs[1])
        scores = full(self.region_scores(regions[pairs.captions.image], mask, captions))
        pairs = pairs._replace(target=pairs.target.masked_fill(~mask, 0))
        terms = self.extra_losses(pairs, images, captions)
        scores = scores.masked_fill(~mask, float("-inf"))
        begin_batch(self)
        terms |= self.objective.ground(scores, pairs, (images, captions))
        return terms | {"total": torch.stack([full(term) for term in terms.values()]).sum()}

    def _check_region_options(self) -> None:
        loss = self.objective
        names = ("gather", "mask_same_image")
        options = [f"loss.{name}=true" for name in names if getattr(loss, name, False)]
        if self.chunk_size is not None:
            options.append(f"chunk_size={self.chunk_size}")
        if options:
            raise ValueError(
                f"{', '.join(options)}: phrases with labelled regions (model.level=region) are "
                "compared within their images and batches, encoded at once: leave the option out"
            )

    def details(self, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
        """Show how well the sentence fits each region.

        Raises:
            ValueError: the level is "image", which does not compare single regions.
        """
        if self.level != "region":
            raise ValueError(
                "this two-branch network compares the mean of all regions: train one with "
                "model.level=region to explain single regions"
            )
        scores = array(self.ground(pairs.images, pairs.captions)[0])
        return Details(regions={"how well the sentence fits each region": scores})

    # Training ---------------------------------------------------------------------------------

    def extra_losses(self, pairs: Pairs, images: Encoded, captions: Encoded) -> dict[str, Tensor]:
        """Compute the pull towards pretrained word vectors, if `text` has a `word_reg`."""
        return self.text.penalty()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups with learning rates for sentence branch and text encoder, and the rest."""
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
