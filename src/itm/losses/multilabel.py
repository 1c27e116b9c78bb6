"""Multi-label consistency (CASC, Xu et al. 2020): both sides must name the labels of the image."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from itm.batch import Pairs
from itm.layers.functional import full, full_precision, global_vector
from itm.losses.base import Loss, Sides
from itm.losses.triplet import Triplet
from itm.text.labels import positive_weights


class MultiLabel(Loss):
    """A ranking loss plus weight x [BCE(head(image), y) + BCE(head(caption), y)].

    One head for both sides, Linear(D, hidden) tanh Linear(hidden, K), reads the global vectors of
    matching pairs; y are the labels of the caption's image. BCE is binary cross entropy with
    logits, its positive term weighted per label, mean over pairs and labels.

    Args:
        margin: of the ranking loss.
        weight: of the two label terms.
        dim: width D of the global vectors (`Matcher.label_dim`); None = the backbone brings its own
            label head and loss (CASC), and nothing is added here.
        num_labels: number K of labels; needed with `dim`.
        hidden: width of the head's hidden layer.
        pos_weight: weight of a label that is present: K numbers, one for all, or a .npy file of
            them; None or "auto" = from `set_labels`, and 1 without it.
        negatives: of the ranking loss: "hardest", "all" or "top".
        warmup_steps: of the ranking loss: first training batches with all negatives.
        mask_same_image: captions of the same image are not negatives of each other.
        gather: score against the batches of all processes.
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
        self.weight = weight
        self.dim = dim
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
                    f"pos_weight={pos_weight} without dim: this matcher has a label head and loss "
                    "of its own; set model.pos_weight"
                )
            return
        if num_labels is None:
            raise ValueError(f"MultiLabel(dim={dim}) needs num_labels, the number of labels")
        self.head = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, num_labels))
        self.register_buffer("pos_weight", torch.ones(num_labels))
        weights = positive_weights(pos_weight, num_labels)
        self._given = weights is not None
        if weights is not None:
            self._set_pos_weight(weights)

    def set_labels(self, labels: Any) -> None:
        """Take the positive weights of a label vocabulary, unless some were given.

        Args:
            labels: an object with `pos_weight()`, K numbers.

        Raises:
            ValueError: another number of labels.
        """
        if self.dim is not None and not self._given:
            self._set_pos_weight(labels.pos_weight())

    def _set_pos_weight(self, values: Any) -> None:
        weight = torch.as_tensor(values, dtype=torch.float32)
        if weight.shape != self.pos_weight.shape:
            raise ValueError(f"{len(weight)} positive weights for {len(self.pos_weight)} labels")
        self.pos_weight.copy_(weight)

    @property
    def ranked(self) -> Loss:
        """The ranking loss."""
        return self.ranking

    def forward(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> Tensor:
        """Ranking loss of a score matrix (I, C) + the label terms of the encodings."""
        total = self.ranking(scores, pairs, encoded)
        return torch.stack([total, *self.terms(scores, pairs, encoded).values()]).sum()

    @full_precision
    def terms(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> dict[str, Tensor]:
        """What is added on the main score level: both sides' label loss.

        Raises:
            ValueError: no labels, another number of labels, or vectors of another width.
        """
        if self.dim is None:
            return {}
        labels, count = pairs.captions.labels, len(self.pos_weight)
        if labels is None:
            raise ValueError(
                "loss=multilabel needs the labels (C, K) of each caption's image: pass labels=... "
                "to matcher.pairs, or build the data module with needs=['labels']"
            )
        if labels.shape[1] != count:
            raise ValueError(f"the batch has {labels.shape[1]} labels, the loss num_labels={count}")
        image, caption = (full(global_vector(side)) for side in encoded)  # (I, D), (C, D)
        for name, vector in (("image", image), ("caption", caption)):
            if vector.shape[1] != self.dim:
                raise ValueError(
                    f"{name} vectors are {vector.shape[1]} wide, the loss has dim={self.dim}; "
                    "build it with dim=matcher.label_dim"
                )
        image = image[pairs.captions.image]  # (C, D): row c = the image of caption c
        both = self._bce(image, labels) + self._bce(caption, labels)
        return {"multilabel": self.weight * both}

    def _bce(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """(C, D) vectors against (C, K) labels -> scalar."""
        logits = self.head(vectors)
        return binary_cross_entropy_with_logits(
            logits, labels.to(logits.dtype), pos_weight=self.pos_weight.to(logits.dtype)
        )
