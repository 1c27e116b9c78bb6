"""Predict labels from global vectors, and compare two vectors by labels (CASC's label head)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itm.layers.attention_math import split
from itm.layers.functional import fill_pos_weight, full, full_precision
from itm.text.labels import label_weights
from itm.utils.devices import block_values

CACHE = 1 << 20  # values of an array of `agreement` that a CPU computes at once, 4 MB


@dataclass(frozen=True)
class LabelOptions:
    """Options of the label head and its loss.

    Args:
        hidden: width of the label head's hidden layer.
        label_weight: weight of the label loss; 0 turns it off.
        pos_weight: weight of positive labels: K numbers, or one number for all (1 = unweighted);
            None or "auto" = taken from `CASC.set_labels`, 1 until then. To read them from a file,
            use `itm.text.labels.positive_weights`.
        head_lr_scale: learning rate of the label head relative to the rest (published: 0.01 and
            2e-4).
    """

    hidden: int = 512
    label_weight: float = 10.0
    pos_weight: Sequence[float] | float | str | None = None
    head_lr_scale: float = 50.0


class LabelHead(nn.Module):
    """Linear(D, hidden), tanh, Linear(hidden, K), shared by both sides.

    Args:
        dim: width D of the global vectors.
        hidden: width of the hidden layer.
        num_labels: number K of labels.
        pos_weight: weight of positive labels, see `LabelOptions`.

    Raises:
        ValueError: the number of weights is not K.
    """

    pos_weight: Tensor

    def __init__(
        self,
        dim: int,
        hidden: int,
        num_labels: int,
        pos_weight: Sequence[float] | float | str | None = None,
    ):
        super().__init__()
        self.first = nn.Linear(dim, hidden)
        self.second = nn.Linear(hidden, num_labels)
        self.register_buffer("pos_weight", torch.ones(num_labels))
        weights = label_weights(pos_weight, num_labels)
        if weights is not None:
            self.set_pos_weight(weights)

    def set_pos_weight(self, values: Sequence[float] | Tensor) -> None:
        """Set the K positive weights.

        Raises:
            ValueError: the number of weights is not K.
        """
        fill_pos_weight(self.pos_weight, values)

    def forward(self, vectors: Tensor) -> Tensor:
        """Compute logits (..., K) of global vectors (..., D)."""
        return self.second(torch.tanh(self.first(vectors)))

    @full_precision
    def loss(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Compute the binary cross entropy of the vectors' logits, mean over pairs and labels.

        Args:
            vectors: (C, D).
            labels: (C, K) multi-hot.

        Raises:
            ValueError: the number of labels is not K.
        """
        count = len(self.pos_weight)
        if labels.shape[1] != count:
            raise ValueError(
                f"the batch has {labels.shape[1]} labels, but the matcher has num_labels={count}"
            )
        logits = self(vectors)
        weight = self.pos_weight.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(
            logits, labels.to(logits.dtype), pos_weight=weight
        )

    def agreement(
        self, regions: Tensor, words: Tensor, to_regions: Tensor, to_words: Tensor
    ) -> Tensor:
        """Compute the cosine (I, C) of the label probabilities of every pair's global vectors.

        A global vector is a weighted mean of regions or words. Because the first layer is affine
        and weights sum to 1, it can be applied to regions and words and its outputs averaged, so
        that no vector of width D is computed per pair. Autocast lowers the precision of the
        products and of the tanh between them; probabilities and cosines are in float32.

        Args:
            regions: (I, R, D).
            words: (C, L, D).
            to_regions: (I, C, R) weights, sum 1.
            to_words: (I, C, L) weights, sum 1.
        """
        # Parts are projected before they are averaged, unless there are fewer means than parts.
        early = len(words) >= regions.shape[1], len(regions) >= words.shape[1]
        regions, words = (self._project(x, e) for x, e in zip((regions, words), early, strict=True))
        rows = []
        step = block_values(words.device, CACHE) // (len(words) * words.shape[-1])
        for region, image, text in split(max(1, step), regions, to_regions, to_words):
            means = image @ region, text.transpose(0, 1) @ words  # (I, C, ...), (C, I, ...)
            hidden = (self._project(x, not e) for x, e in zip(means, early, strict=True))
            # In place, because the products are not needed again, for their gradients neither.
            a, b = (full(self.second(x.tanh_())).sigmoid_() for x in hidden)  # (..., K)
            rows.append(_cosine(a, b.transpose(0, 1)))
        return torch.cat(rows)

    def _project(self, x: Tensor, now: bool) -> Tensor:
        return self.first(x) if now else x


@full_precision
def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Compute cosines along the last axis; 0 for a zero vector."""
    one, other = (torch.linalg.vector_norm(x, dim=-1).clamp_min(1e-8) for x in (a, b))
    return torch.linalg.vecdot(a, b) / (one * other)
