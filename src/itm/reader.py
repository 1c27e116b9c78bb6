"""`Reader`: rows of a split as batches of tensors, for training and for evaluation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from itm.batch import Captions, Images, Pairs
from itm.layout import Split
from itm.phrases import PhraseSplit
from itm.resident import row_numbers
from itm.text import Tokens
from itm.tuples import make_captions, make_images


class Reader:
    """Reads rows of a split into tensors; one per split, shared by training and evaluation.

    Args:
        split: the files.
        vocab: tokens of the captions.
        labels: (N, K) labels of the images, or None.
        concepts: (M, K) concept labels of the captions, or None.
        relevance: CIDEr-D index with `batch(caption_rows, image_rows)`, or None.
        vectors: (M, F) sentence vectors, or None.
        features: read the features; False for batches that look them up on the device.
    """

    def __init__(
        self,
        split: Split,
        vocab: Tokens,
        labels: np.ndarray | None = None,
        concepts: np.ndarray | None = None,
        relevance: Any = None,
        vectors: np.ndarray | None = None,
        features: bool = True,
    ):
        self.split = split
        self.features = features
        self.tokens = [vocab.encode(caption) for caption in split.captions]
        self.lengths = np.array([len(ids) for ids in self.tokens])
        self.caption_image = split.caption_image
        self.labels = labels
        self.concepts = concepts
        self.relevance = relevance
        self.vectors = vectors

    def images(self, rows: Sequence[int]) -> Images:
        """Some images."""
        if not self.features:
            return row_numbers(self.split, list(rows))
        return make_images(self.split.images(np.asarray(rows)), rows)

    def captions(self, rows: Sequence[int], image: Sequence[int] | None = None) -> Captions:
        """Some captions; `image` is the row of each one's image in the batch, else in the split."""
        index = np.asarray(rows)
        own = self.caption_image[index]

        def pick(table: np.ndarray | None, at: np.ndarray) -> torch.Tensor | None:
            return None if table is None else torch.from_numpy(np.array(table[at], np.float32))

        return make_captions(
            [self.tokens[row] for row in rows],
            index.tolist(),
            own.tolist() if image is None else image,
            pick(self.labels, own),
            pick(self.concepts, index),
            pick(self.vectors, index),
        )

    def pairs(self, rows: Sequence[int]) -> Pairs:
        """A training batch of captions, longest first, each with its image."""
        rows = sorted(rows, key=lambda row: -self.lengths[row])
        own = self.caption_image[rows]
        relevance = None
        if self.relevance is not None:
            relevance = torch.from_numpy(self.relevance.batch(np.array(rows), own))
        captions = self.captions(rows, range(len(rows)))
        return Pairs(self.images(own.tolist()), captions, relevance, self.target(rows))

    def groups(self, rows: Sequence[int]) -> Pairs:
        """A batch with several captions per image: runs of one image share its row."""
        own = self.caption_image[list(rows)]
        new = np.concatenate([[True], own[1:] != own[:-1]])
        image = np.cumsum(new) - 1
        relevance = None
        if self.relevance is not None:
            relevance = torch.from_numpy(self.relevance.batch(np.array(rows), own[new]))
        captions = self.captions(rows, image.tolist())
        return Pairs(self.images(own[new].tolist()), captions, relevance, self.target(rows))

    def target(self, rows: Sequence[int]) -> torch.Tensor | None:
        """(n, R) which regions some phrases mean; None for captions, which mean whole images."""
        split = self.split
        return torch.from_numpy(split.target(rows)) if isinstance(split, PhraseSplit) else None
