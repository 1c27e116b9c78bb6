"""What a matcher does for plain data: batches, scores and vectors, outside any training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from itm.batch import Chunk, Images, Pairs, map_encoded
from itm.data.batches import Arrays
from itm.data.layout import Features
from itm.layers.functional import global_vector
from itm.matcher.blocks import MEMORY_BUDGET, similarity_matrix
from itm.matcher.inputs import caption_batches, check_images, image_batches, make_pairs

if TYPE_CHECKING:
    from itm.matcher.matcher import Matcher


class Scoring:
    """The methods of a matcher that encode and score.

    Attributes:
        memory_budget: bytes that one block of scores may need.
    """

    memory_budget: int = MEMORY_BUDGET

    def pairs(
        self,
        features: Arrays,
        captions: Sequence[str] | np.ndarray,
        image: Sequence[int] | None = None,
        ids: Sequence[int] | None = None,
        labels: np.ndarray | None = None,
        concepts: np.ndarray | None = None,
        relevance: np.ndarray | None = None,
    ) -> Pairs:
        """A batch from plain data, tokenised with this matcher's own vocabulary.

        Args:
            features: (I, R, F) or (I, F) array, or a list of (R_i, F).
            captions: C sentences, or a (C, F) array of sentence vectors for `text=vectors`.
            image: row of each caption's image; needed when I != C, else 0 to C-1.
            ids: identity of each image, equal for copies of one image; 0 to I-1 by default.
            labels: (C, K) labels.
            concepts: (C, K) concept labels; from the captions' words when the matcher has concepts.
            relevance: (I, C) semantic relevance for `loss=sam`.
        """
        matcher = cast("Matcher", self)
        pairs = make_pairs(matcher, features, captions, image, ids, labels, concepts, relevance)
        check_images(pairs.images, matcher)
        return matcher.transfer_batch_to_device(pairs, matcher.device, 0)

    @torch.no_grad()
    def score(
        self,
        features: Features,
        captions: Sequence[str] | np.ndarray,
        batch_size: int = 128,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Similarity of every image with every caption, in eval mode.

        Args:
            features: (N, R, F) array or memory map, (N, F), or a list of (R_i, F).
            captions: M sentences, or a (M, F) array of sentence vectors for `text=vectors`.
            batch_size: how many are encoded at once.
            out: (N, M) float32 array or memory map to fill.

        Returns:
            (N, M) float32.
        """
        images = self._encode(image_batches(features, batch_size))
        sentences = self._encode(caption_batches(cast("Matcher", self), captions, batch_size))
        if out is None:
            out = np.empty((len(features), len(captions)), np.float32)
        with self._evaluating():  # SAF's similarity has a batch norm
            return self._matrix(images, sentences, out)

    @torch.no_grad()
    def embed(
        self,
        features: Features | None = None,
        captions: Sequence[str] | np.ndarray | None = None,
        batch_size: int = 128,
    ) -> np.ndarray:
        """Global vectors (N, D) float32 of images or of captions, in eval mode."""
        if (features is None) == (captions is None):
            raise ValueError("embed takes either features=... or captions=...")
        if features is not None:
            chunks, size = self._encode(image_batches(features, batch_size)), len(features)
        else:
            assert captions is not None
            chunks = self._encode(caption_batches(cast("Matcher", self), captions, batch_size))
            size = len(captions)
        vectors = [(global_vector(encoded).float().cpu(), rows) for encoded, rows in chunks]
        out = np.empty((size, vectors[0][0].shape[1] if vectors else 0), np.float32)
        for vector, rows in vectors:
            out[rows.numpy()] = vector.numpy()
        return out

    def _encode(self, batches: Any) -> list[Chunk]:
        """Encode batches in eval mode, whatever mode the matcher is in; results on the host."""
        matcher = cast("Matcher", self)
        chunks = []
        with self._evaluating():
            for batch in batches:
                image = isinstance(batch, Images)
                if image:
                    check_images(batch, matcher)
                batch = matcher.transfer_batch_to_device(batch, matcher.device, 0)
                encoded = matcher.encode_images(batch) if image else matcher.encode_captions(batch)
                chunks.append((map_encoded(encoded, lambda x: x.cpu()), batch.index.cpu()))
        return chunks

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Eval mode, and afterwards the mode there was."""
        matcher = cast("Matcher", self)
        training = matcher.training
        matcher.eval()
        try:
            yield
        finally:
            matcher.train(training)

    def _matrix(self, images: list[Chunk], captions: list[Chunk], out: np.ndarray) -> np.ndarray:
        """Fill the scores (N, M) of encoded images with encoded captions, block by block."""
        m = cast("Matcher", self)
        return similarity_matrix(
            m.similarity, images, captions, m.pair_floats, m.device, m.memory_budget, out
        )
