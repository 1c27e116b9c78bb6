"""`RetrievalMetrics`: a torchmetrics Metric that collects a similarity matrix row by row.

It is in a separate file because torchmetrics imports transformers and matplotlib, which the
functions on score matrices do not need.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from itm.metrics.graded_lists import as_relevance
from itm.metrics.protocols import Protocol, check_size
from itm.metrics.ranking import Ranks, caption_rows
from itm.metrics.retrieval import evaluate_queries


class RetrievalMetrics(Metric):
    """Collect the rows of a similarity matrix by image index, then evaluate the whole matrix.

    Rows may come in any order, from several processes, and more than once: a distributed sampler
    repeats samples to fill its last round, and a repeated row counts once. With several processes,
    each must call `update` at least once.

    Args:
        caption_image: (M,) row of each caption's image.
        protocol: as in `evaluate`.
        num_images: N; None = the largest row in `caption_image` + 1.
        relevance: (M, N) semantic relevance, or None, as in `evaluate`.

    Raises:
        ValueError: caption_image, the protocol or the relevance do not fit each other, or the
            relevance holds negative, infinite or NaN values.

    Attributes:
        ranks: ranks of all queries, as from `evaluate_queries`; None before `compute`.

    Examples:
        >>> import torch
        >>> from itm.metrics import RetrievalMetrics
        >>> metrics = RetrievalMetrics(caption_image=[0, 1, 2])
        >>> metrics.update(torch.eye(3), torch.arange(3))
        >>> metrics.compute()["rsum"]
        600.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    rows: list[Tensor]
    index: list[Tensor]

    def __init__(
        self,
        caption_image: ArrayLike | Tensor,
        protocol: str | Protocol = "full",
        num_images: int | None = None,
        relevance: ArrayLike | Tensor | None = None,
    ):
        super().__init__()
        # What does not fit fails here, not after an epoch.
        own = np.asarray(
            caption_image.cpu() if isinstance(caption_image, Tensor) else caption_image
        )
        self.num_images = int(own.max(initial=-1)) + 1 if num_images is None else num_images
        self.caption_image = caption_rows(own, self.num_images, len(own))
        check_size(protocol, self.num_images, len(own))
        self.protocol = protocol
        self.relevance = (
            None if relevance is None else as_relevance(relevance, len(own), self.num_images)
        )
        self.ranks: Ranks | None = None
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.add_state("index", default=[], dist_reduce_fx="cat")

    def update(self, rows: Tensor, image_index: Tensor) -> None:
        """Add the scores of I images.

        Args:
            rows: (I, M) similarity of these images with all captions.
            image_index: (I,) row of each image in the split.

        Raises:
            ValueError: shapes or indices do not match the split.
        """
        rows, image_index = torch.as_tensor(rows), torch.as_tensor(image_index)
        if image_index.is_floating_point() or image_index.dtype == torch.bool:
            raise ValueError(f"image_index must hold whole numbers, got {image_index.dtype}")
        if image_index.ndim != 1:
            raise ValueError(f"image_index must be (I,), got {tuple(image_index.shape)}")
        expected = (len(image_index), len(self.caption_image))
        if tuple(rows.shape) != expected:
            raise ValueError(f"rows must be images x captions, {expected}, got {tuple(rows.shape)}")
        if len(image_index) and not 0 <= image_index.min() <= image_index.max() < self.num_images:
            raise ValueError(f"image_index must lie in 0..{self.num_images - 1}, got {image_index}")
        # Copies: the caller may fill one buffer again and again.
        self.rows.append(rows.detach().to(self.device, copy=True))
        self.index.append(image_index.to(self.device, torch.long, copy=True))

    def forward(self, rows: Tensor, image_index: Tensor) -> None:
        """Add the scores of I images, as `update` does; a part of the split has no value yet."""
        self.update(rows, image_index)

    def reset(self) -> None:
        """Forget all rows and ranks."""
        super().reset()
        self.ranks = None

    def compute(self) -> dict[str, float]:
        """Compute `evaluate` of the collected matrix.

        Raises:
            ValueError: rows of some images are missing.
        """
        index = dim_zero_cat(self.index) if len(self.index) else torch.empty(0, dtype=torch.long)
        seen = torch.bincount(index, minlength=self.num_images) > 0
        if not seen.all():
            missing = (~seen).nonzero()[:, 0].tolist()
            raise ValueError(
                f"scores of {len(missing)} of {self.num_images} images are missing "
                f"(rows {', '.join(map(str, missing[:5]))}{', ...' if missing[5:] else ''}): "
                "every image of the split must be updated before compute"
            )
        rows = dim_zero_cat(self.rows)
        scores = rows.new_empty(self.num_images, rows.shape[1])
        scores[index] = rows
        own, protocol = self.caption_image, self.protocol
        results, self.ranks = evaluate_queries(scores, own, protocol, self.relevance)
        return results
