"""Multi-label consistency (CASC, Xu et al. 2020): predict the image's labels from both sides."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from itm.batch import Pairs
from itm.layers.functional import fill_pos_weight, full, full_precision, global_vector
from itm.losses.base import Loss, Sides
from itm.losses.shared import check_weights
from itm.losses.triplet import PLAIN, Triplet
from itm.text.labels import positive_weights
from itm.utils.checks import check_choice


class MultiLabel(Loss):
    """A ranking loss plus weight x [BCE(head(image), y) + BCE(head(caption), y)].

    Both sides share one head, Linear(D, hidden) tanh Linear(hidden, K), which reads the global
    vectors of matching pairs; y are the labels of the caption's image. BCE is the binary cross
    entropy with logits, averaged over pairs and labels, with a weight per label on positives.

    Args:
        margin: margin of the ranking loss.
        weight: weight of the two label terms.
        dim: width D of the global vectors (`Matcher.label_dim`); None = known when training starts.
            A backbone with a label head and a label loss of its own (CASC) has no such width, so
            this loss adds no label terms.
        num_labels: number K of labels; required with `dim`.
        hidden: width of the head's hidden layer.
        pos_weight: weight of positive labels: K numbers, one number for all labels, or the path of
            a .npy file with K numbers; None or "auto" = taken from `set_labels`, 1 until then.
        negatives: negatives of the ranking loss: "hardest", "all" or "top".
        warmup_steps: number of initial training batches in which the ranking loss takes all
            negatives.
        mask_same_image: exclude other captions of the same image from the negatives.
        gather: score against the batches of all processes.

    Raises:
        ValueError: an option is unknown or out of range, or `num_labels` is missing.

    Examples:
        >>> import torch
        >>> from itm.losses import MultiLabel
        >>> loss = MultiLabel(margin=0.2)  # a data module and a matcher bring labels and sizes
        >>> loss.needs_labels, float(loss.ranked(torch.eye(3)))
        (True, 0.0)
    """

    needs_labels = True
    pos_weight: Tensor

    def __init__(
        self,
        margin: float = 0.2,
        weight: float = 10.0,
        dim: int | None = None,
        num_labels: int | None = None,
        hidden: int = 512,
        pos_weight: list[float] | float | str | None = None,
        negatives: str = "hardest",
        warmup_steps: int = 0,
        mask_same_image: bool = False,
        gather: bool = False,
    ):
        super().__init__()
        check_choice("negatives", negatives, PLAIN)
        check_weights({"weight": weight})
        self.weight = weight
        self.hidden = hidden
        self.dim = dim
        self._dim_of_data: int | None = None
        self._is_told = False  # a data module or a matcher has said whether there is a head
        self._given = False
        self.gather = gather
        self.ranking = Triplet(
            margin=margin,
            negatives=negatives,
            warmup_steps=warmup_steps,
            mask_same_image=mask_same_image,
        )
        if dim is None:
            if pos_weight not in (None, "auto"):
                raise ValueError(
                    f"pos_weight={pos_weight} has no effect without dim: this matcher has its own "
                    "label head and loss; set model.pos_weight instead"
                )
            return
        if num_labels is None:
            raise ValueError(f"MultiLabel(dim={dim}) needs num_labels, the number of labels")
        self._make_head(dim, num_labels)
        weights = positive_weights(pos_weight, num_labels)
        self._given = weights is not None
        if weights is not None:
            fill_pos_weight(self.pos_weight, weights)

    def _make_head(self, dim: int, num_labels: int) -> None:
        self.dim = dim
        self.head = nn.Sequential(
            nn.Linear(dim, self.hidden), nn.Tanh(), nn.Linear(self.hidden, num_labels)
        )
        self.register_buffer("pos_weight", torch.ones(num_labels))

    def set_dim(self, dim: int | None) -> None:
        """Take the width of the global vectors, unless `dim` was given.

        Raises:
            ValueError: the loss has the head of another matcher.
        """
        if self._dim_of_data is not None and dim != self._dim_of_data:
            raise ValueError(
                f"this MultiLabel has a label head for vectors of width {self._dim_of_data}, from "
                "the training of another matcher: make a new loss for this one"
            )
        self._is_told = True
        if self.dim is None:
            self._dim_of_data = dim

    def set_labels(self, labels: Any) -> None:
        """Take the positive weights of a label vocabulary, unless `pos_weight` was given.

        A loss that was made without `dim` gets its head now, if `set_dim` told it the width.

        Args:
            labels: an object whose `pos_weight()` returns K numbers.

        Raises:
            ValueError: the number of labels is not K.
        """
        weights = labels.pos_weight()
        self._is_told = True
        if self.dim is None and self._dim_of_data is not None:
            self._make_head(self._dim_of_data, len(weights))
        if self.dim is not None and not self._given:
            fill_pos_weight(self.pos_weight, weights)

    @property
    def ranked(self) -> Loss:
        """Return the ranking loss."""
        return self.ranking

    def forward(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> Tensor:
        """Compute the ranking loss of a score matrix (I, C) plus the label terms."""
        total = self.ranking(scores, pairs, encoded)
        return torch.stack([total, *self.terms(scores, pairs, encoded).values()]).sum()

    @full_precision
    def terms(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> dict[str, Tensor]:
        """Compute the label loss of both sides, added on the main score level.

        Raises:
            ValueError: labels are missing, their number is not K, or the vectors are not D wide; or
                the loss was made without `dim`, and nobody has told it the sizes.
        """
        if self.dim is None:
            if self._is_told and self._dim_of_data is None:
                return {}
            raise ValueError(
                "MultiLabel() has no label head yet: a trainer with a RegionDataModule brings the "
                "sizes; without one, give them, MultiLabel(dim=matcher.label_dim, num_labels=K), "
                "or use Triplet() to only rank"
            )
        labels, count = pairs.captions.labels, len(self.pos_weight)
        if labels is None:
            raise ValueError(
                "loss=multilabel needs the labels (C, K) of each caption's image: pass labels=... "
                "to matcher.pairs, or train with a RegionDataModule, which brings them"
            )
        if labels.shape[1] != count:
            raise ValueError(
                f"the batch has {labels.shape[1]} labels, but the loss has num_labels={count}"
            )
        image, caption = (full(global_vector(side)) for side in encoded)  # (I, D), (C, D)
        for name, vector in (("image", image), ("caption", caption)):
            if vector.shape[1] != self.dim:
                raise ValueError(
                    f"{name} vectors are {vector.shape[1]} wide, but the loss has dim={self.dim}; "
                    "build it with dim=matcher.label_dim"
                )
        image = image[pairs.captions.image]  # (C, D): row c = the image of caption c
        both = self._bce(image, labels) + self._bce(caption, labels)
        return {"multilabel": self.weight * both}

    def _bce(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Compute the BCE of vectors (C, D) with labels (C, K), a scalar."""
        logits = self.head(vectors)
        return binary_cross_entropy_with_logits(
            logits, labels.to(logits.dtype), pos_weight=self.pos_weight.to(logits.dtype)
        )
