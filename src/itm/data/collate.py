"""Put batches together: `Reader` turns rows of a split into tensors, in training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from itm.batch import Captions, Images, Pairs
from itm.data.array_file import ArrayFile
from itm.data.augmentation import Augmentation
from itm.data.layout import Split
from itm.data.padding import Arrays, make_captions, make_images
from itm.data.resident import row_numbers
from itm.text.tokenizers import split_characters
from itm.text.vocabulary import Tokens, Vocabulary
from itm.text.words import CaptionWords, Ragged
from itm.utils.log_files import say

if TYPE_CHECKING:
    from itm.relevance import CiderIndex
    from itm.text.concepts import Concepts


PREPARED = "cider.npz"
SplitCaptions = Callable[[str], CaptionWords]  # tokeniser -> words of a split's captions


class Reader:
    """Read rows of a split into tensors; each split has one reader.

    Args:
        split: split to read.
        tokens: (M) ids of the captions.
        labels: (N, K) labels of the images, or None.
        concepts: (M, K) concept labels of the captions, or None.
        relevance: CIDEr-D index with `batch(caption_rows, image_rows)`, or None.
        vectors: (M, F) sentence vectors, or None.
        features: read the features; False if they are looked up on the device.
        as_stored: leave float16 features as they are, for `itm.data.padding.widen`.
        augmentation: augmentation of training batches, or None.
    """

    def __init__(
        self,
        split: Split,
        tokens: Ragged,
        labels: np.ndarray | None = None,
        concepts: np.ndarray | None = None,
        relevance: Any = None,
        vectors: np.ndarray | ArrayFile | None = None,
        features: bool = True,
        augmentation: Augmentation | None = None,
        as_stored: bool = False,
    ):
        self.split = split
        self.features = features
        self.tokens = tokens
        self.lengths = tokens.lengths
        self.caption_image = split.caption_image
        self.labels = labels
        self.concepts = concepts
        self.relevance = relevance
        self.vectors = vectors
        self.augmentation = augmentation
        self.as_stored = as_stored

    def images(self, rows: Sequence[int], kept: list[np.ndarray] | None = None) -> Images:
        """Read some images; `kept` marks the regions (R,) of each image that augmentation keeps."""
        if not self.features:
            return row_numbers(self.split, list(rows), kept)
        features: Arrays = self.split.images(np.asarray(rows), self.as_stored)
        if kept is not None:
            features = [x[own] for x, own in zip(features, kept, strict=True)]
        return make_images(features, rows, self.as_stored)

    def captions(
        self,
        rows: Sequence[int],
        image: Sequence[int] | None = None,
        tokens: list[list[int]] | None = None,
    ) -> Captions:
        """Read some captions; `image` is the row of the image in the batch, else in the split.

        `tokens` replaces the ids of the captions after augmentation.
        """
        index = np.asarray(rows)
        own = self.caption_image[index]

        def pick(table: np.ndarray | None, at: np.ndarray) -> torch.Tensor | None:
            return None if table is None else torch.from_numpy(np.array(table[at], np.float32))

        return make_captions(
            tokens or [self.tokens[row] for row in rows],
            index.tolist(),
            own.tolist() if image is None else image,
            pick(self.labels, own),
            pick(self.concepts, index),
            self._sentence_vectors(index),
        )

    def _sentence_vectors(self, index: np.ndarray) -> torch.Tensor | None:
        """Read the vectors of some captions.

        Raises:
            ValueError: a value is NaN or infinite, with file and row.
        """
        if self.vectors is None:
            return None
        block = np.array(self.vectors[index], np.float32)
        if not np.isfinite(block).all():
            bad = index[~np.isfinite(block).all(1)][0]
            line = bad if self.split.caption_row is None else self.split.caption_row[bad]
            raise ValueError(
                f"{self.split.folder / self.split.name}_caps.npy row {line} holds NaN or infinite "
                "values; compute these sentence vectors again"
            )
        return torch.from_numpy(block)

    def pairs(self, rows: Sequence[int]) -> Pairs:
        """Make a training batch of captions, longest first, each with its image."""
        tokens, kept = self._augmented(rows)
        order = sorted(range(len(rows)), key=lambda k: -len(tokens[k]))
        rows, tokens = [rows[k] for k in order], [tokens[k] for k in order]
        kept = None if kept is None else [kept[k] for k in order]
        own = self.caption_image[rows]
        relevance = None
        if self.relevance is not None:
            relevance = torch.from_numpy(self.relevance.batch(np.array(rows), own))
        captions = self.captions(rows, range(len(rows)), tokens)
        return Pairs(self.images(own.tolist(), kept), captions, relevance, self.target(rows))

    def groups(self, rows: Sequence[int]) -> Pairs:
        """Make a batch in which consecutive captions of the same image share its row."""
        tokens, kept = self._augmented(rows)
        own = self.caption_image[list(rows)]
        new = np.concatenate([[True], own[1:] != own[:-1]])
        image = np.cumsum(new) - 1
        kept = None if kept is None else [kept[k] for k in np.flatnonzero(new)]
        relevance = None
        if self.relevance is not None:
            relevance = torch.from_numpy(self.relevance.batch(np.array(rows), own[new]))
        captions = self.captions(rows, image.tolist(), tokens)
        return Pairs(self.images(own[new].tolist(), kept), captions, relevance, self.target(rows))

    def _augmented(self, rows: Sequence[int]) -> tuple[list[list[int]], list[np.ndarray] | None]:
        """Return ids of the captions and masks (R,) of their images' regions after augmentation.

        The draws depend on the place of each row in the epoch, which the sampler's `Rows` hold.
        """
        if self.augmentation is None:
            return [self.tokens[row] for row in rows], None
        epoch, start = getattr(rows, "epoch", 0), getattr(rows, "start", 0)
        found = [
            self.augmentation.draw(self.split.captions[row], self.split.regions, (epoch, start + k))
            for k, row in enumerate(rows)
        ]
        masks = [mask for _, mask in found] if self.augmentation.region_drop else None
        return [ids for ids, _ in found], masks

    def target(self, rows: Sequence[int]) -> torch.Tensor | None:
        """Return the target (n, R) of some captions, see `Split.target`."""
        target = self.split.target(rows)
        return None if target is None else torch.from_numpy(target)


def encode_captions(vocab: Tokens, captions: Sequence[str], words: SplitCaptions) -> Ragged:
    """Convert captions to ids; the words of a `Vocabulary` come from `words`."""
    if type(vocab).encode is Vocabulary.encode:  # a class derived from it may encode otherwise
        assert isinstance(vocab, Vocabulary)
        return vocab.encode_all(words(vocab.tokenizer))
    return Ragged.of(vocab.encode(caption) for caption in captions)


def caption_concepts(
    concepts: Concepts, split: Split, vocab: Tokens, words: SplitCaptions, training: bool
) -> np.ndarray:
    """Label captions with concepts: (M, K).

    In training, as published, a caption gets the concepts of all captions of its image. At test
    time it gets only its own, because the others would reveal which captions belong together.
    """
    if not training:
        read = [vocab.as_read(caption) for caption in split.captions]
        return concepts.label(words(concepts.tokenizer) if read == split.captions else read)
    found = words(concepts.tokenizer)
    of_image = concepts.label_images(found, split.caption_image, split.num_images)
    return of_image.astype(bool)[split.caption_image]


def relevance_index(split: Split, size: int, tokenizer: str = "treebank") -> CiderIndex:
    """Index the CIDEr-D between all captions and images of a split.

    References are always an image's full list; document frequencies come from the first `size`
    captions, which are trained on. Words are split at blanks, as published, or into characters.
    The index that `itm.prepare` wrote into the folder of the split is read if it was made in the
    same way.
    """
    from itm.relevance import CiderIndex, whitespace_tokens  # late: only CIDEr needs them

    df = None if size == len(split.captions) else split.references(size)
    tokens = split_characters if tokenizer == "characters" else whitespace_tokens
    prepared = split.folder / PREPARED
    if df is None and prepared.is_file():
        try:
            return CiderIndex.load(prepared, split.captions, split.caption_image, tokens)
        except ValueError as error:
            say(f"counting CIDEr-D again, because the prepared index does not fit: {error}")
    return CiderIndex(split.captions, split.caption_image, split.num_images, df, tokens)
