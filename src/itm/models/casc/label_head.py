"""CASC's label head: which labels does a global vector name, and do two vectors name the same?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itm.layers.attention_math import split
from itm.layers.functional import full, full_precision
from itm.text.labels import label_weights

PAIRS = 1 << 11  # pairs at once in `agreement`: 4 MB per array of width 512


@dataclass(frozen=True)
class LabelOptions:
    """How labels are predicted and learnt.

    Args:
        hidden: width of the label head's hidden layer.
        label_weight: weight of the label loss; 0 leaves it out.
        pos_weight: weight of a label that is present: K numbers, or one for all (1 = unweighted);
            None or "auto" = from `CASC.set_labels`, and 1 without it. A file of them is read by
            `itm.text.labels.positive_weights`.
        head_lr_scale: learning rate of the label head relative to the rest (0.01 against 2e-4).
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
        pos_weight: weight of a label that is present, see `LabelOptions`.

    Raises:
        ValueError: weights that do not fit the labels.
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
        """Take K positive weights.

        Raises:
            ValueError: another number of them.
        """
        weight = torch.as_tensor(values, dtype=torch.float32)
        if weight.shape != self.pos_weight.shape:
            raise ValueError(
                f"{weight.numel()} positive weights, num_labels={len(self.pos_weight)}"
            )
        self.pos_weight.copy_(weight)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits (..., K) of global vectors (..., D)."""
        return self.second(torch.tanh(self.first(vectors)))

    @full_precision
    def loss(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Binary cross entropy of the vectors' logits, mean over pairs and labels.

        Args:
            vectors: (C, D).
            labels: (C, K) multi-hot.

        Raises:
            ValueError: another number of labels.
        """
        count = len(self.pos_weight)
        if labels.shape[1] != count:
            raise ValueError(f"the batch has {labels.shape[1]} labels, the matcher {count}")
        logits = self(vectors)
        weight = self.pos_weight.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(
            logits, labels.to(logits.dtype), pos_weight=weight
        )

    @full_precision
    def agreement(
        self, regions: Tensor, words: Tensor, to_regions: Tensor, to_words: Tensor
    ) -> Tensor:
        """Cosine (I, C) of the label probabilities of both global vectors of every pair.

        A global vector is a weighted mean of regions or words. The first layer is linear: it is
        applied to regions and words, and its outputs are averaged, so that no vector of width D is
        made for a pair.

        Args:
            regions: (I, R, D).
            words: (C, L, D).
            to_regions: (I, C, R) weights, sum 1.
            to_words: (I, C, L) weights, sum 1.
        """
        regions = F.linear(full(regions), self.first.weight)  # (I, R, hidden)
        words = F.linear(full(words), self.first.weight)  # (C, L, hidden)
        rows = []
        for region, image, text in split(
            max(1, PAIRS // len(words)), regions, to_regions, to_words
        ):
            hidden = image @ region, (text.transpose(0, 1) @ words).transpose(0, 1)
            a, b = (
                self.second(torch.tanh(x + self.first.bias)).sigmoid()  # (I, C, K)
                for x in hidden
            )
            rows.append(F.cosine_similarity(a, b, dim=-1, eps=1e-8))
        return torch.cat(rows)
