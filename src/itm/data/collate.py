"""Put batches together: `Reader` turns rows of a split into tensors, in training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from itm.batch import Captions, Images, Pairs
from itm.data.array_file import ArrayFile
from itm.data.layout import Split
from itm.data.padding import make_captions, make_images
from itm.data.resident import row_numbers
from itm.text.tokenizers import split_characters
from itm.text.vocabulary import Tokens

if TYPE_CHECKING:
    from itm.relevance import CiderIndex
    from itm.text.concepts import Concepts


class Reader:
    """Read rows of a split into tensors; each split has one reader.

    Args:
        split: the files.
        vocab: the vocabulary that encodes captions.
        labels: (N, K) labels of the images, or None.
        concepts: (M, K) concept labels of the captions, or None.
        relevance: CIDEr-D index with `batch(caption_rows, image_rows)`, or None.
        vectors: (M, F) sentence vectors, or None.
        features: read the features; False if they are looked up on the device.
        caption_image: (M,) image of each caption, where it differs from the split's.
    """

    def __init__(
        self,
        split: Split,
        vocab: Tokens,
        labels: np.ndarray | None = None,
        concepts: np.ndarray | None = None,
        relevance: Any = None,
        vectors: np.ndarray | ArrayFile | None = None,
        features: bool = True,
        caption_image: np.ndarray | None = None,
    ):
        self.split = split
        self.features = features
        self.tokens = [vocab.encode(caption) for caption in split.captions]
        self.lengths = np.array([len(ids) for ids in self.tokens])
        self.caption_image = split.caption_image if caption_image is None else caption_image
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

        def pick(table: np.ndarray | ArrayFile | None, at: np.ndarray) -> torch.Tensor | None:
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
        """Return the target (n, R) of some captions, see `Split.target`."""
        target = self.split.target(rows)
        return None if target is None else torch.from_numpy(target)


def caption_concepts(concepts: Concepts, split: Split, vocab: Tokens, training: bool) -> np.ndarray:
    """Label captions with concepts: (M, K).

    In training, as published, a caption gets the concepts of all captions of its image. At test
    time it gets only its own, because the others would reveal which captions belong together.
    """
    if not training:
        return concepts.label([vocab.as_read(caption) for caption in split.captions])
    of_image = concepts.label_images(split.captions, split.caption_image, split.num_images)
    return of_image.astype(bool)[split.caption_image]


def relevance_index(split: Split, size: int, tokenizer: str = "treebank") -> CiderIndex:
    """Index the CIDEr-D between all captions and images of a split.

    References are always an image's full list; document frequencies come from the first `size`
    captions, which are trained on. Words are split at blanks, as published, or into characters.
    """
    from itm.relevance import CiderIndex, whitespace_tokens

    df = None if size == len(split.captions) else split.references(size)
    tokens = split_characters if tokenizer == "characters" else whitespace_tokens
    return CiderIndex(split.captions, split.caption_image, split.num_images, df, tokens)


def shuffled_images(split: Split, ratio: float, seed: int) -> np.ndarray:
    """Return the image of each caption, (M,), after shuffling those of a share of the captions."""
    rng = np.random.default_rng((seed, 1))
    image = split.caption_image.copy()
    chosen = rng.permutation(len(image))[: int(len(image) * ratio)]
    image[chosen] = image[rng.permutation(chosen)]
    return image
