"""Size augmentation: leave out regions and words of training images and captions at random.

Chen, Hu, Wu, Jiang, Wang: Learning the Best Pooling Strategy for Visual Semantic Embedding, CVPR
2021, section 3.4 and the released code; CHAN (Pan et al., CVPR 2023) trains in the same way. The
draws depend only on the seed, the epoch and the place of a caption in the epoch, so neither the
number of workers nor a restart changes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from itm.text.vocabulary import Tokens

MASKED, REPLACED = 0.5, 0.6  # of the chosen words: 50 % masked, 10 % replaced, 40 % removed
STREAM = 2  # sets the draws apart from those of order and noise, which share the seed


def keep_regions(draws: np.ndarray, rate: float) -> np.ndarray:
    """Mark the regions that stay, because their draw is above the rate.

    Args:
        draws: uniform numbers (R,) in [0, 1).
        rate: share of the regions to leave out.

    Returns:
        (R,) bool.
    """
    return np.asarray(draws) > rate


def drop_words(
    words: Sequence[Sequence[int]],
    draws: Sequence[float] | np.ndarray,
    random: Sequence[Sequence[int]] | np.ndarray,
    rate: float,
    mask: int,
) -> list[int]:
    """Mask, replace or remove words, each with all its pieces.

    A draw p of at least `rate` keeps the word. Below it, p / rate < 0.5 masks each piece, < 0.6
    replaces each piece by its random id, and the rest removes the word.

    Args:
        words: ids of each of n words.
        draws: n uniform numbers p in [0, 1).
        random: for each word a random id per piece; read only if the word is replaced.
        rate: share of the words to change.
        mask: id of the mask.

    Returns:
        The ids that remain, maybe none.
    """
    found: list[int] = []
    for pieces, p, ids in zip(words, draws, random, strict=False):
        if p >= rate:
            found += pieces
        elif p / rate < MASKED:
            found += [mask] * len(pieces)
        elif p / rate < REPLACED:
            found += [int(x) for x in ids[: len(pieces)]]
    return found


@dataclass(frozen=True)
class Augmentation:
    """Draw what is left out of training images and captions.

    Args:
        vocab: the vocabulary; needs <mask> if `word_drop` is above 0.
        region_drop: share of the regions to leave out.
        word_drop: share of the words to mask, replace or remove.
        seed: seed of the draws.

    Raises:
        ValueError: the vocabulary cannot drop words.
    """

    vocab: Tokens
    region_drop: float = 0.0
    word_drop: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.word_drop and getattr(self.vocab, "mask_id", None) is None:
            raise ValueError(
                f"data.word_drop={self.word_drop} needs a vocabulary with a mask and without "
                f"fixed padding; this {type(self.vocab).__name__} has none: set data.word_drop=0"
            )

    def draw(
        self, caption: str, regions: int, place: Sequence[int]
    ) -> tuple[list[int], np.ndarray]:
        """Augment a caption and its image; at least one token and one region stay.

        Args:
            caption: the sentence.
            regions: R, how many its image has.
            place: epoch, and place in the epoch.

        Returns:
            Token ids, and the mask (R,) of the regions that stay.
        """
        rng = np.random.default_rng((self.seed, STREAM, *place))
        kept = keep_regions(rng.random(regions), self.region_drop)
        while not kept.any() and regions:
            kept = keep_regions(rng.random(regions), self.region_drop)
        if not self.region_drop:
            kept = np.ones(regions, dtype=bool)
        if not self.word_drop:
            return self.vocab.encode(caption), kept
        vocab: Any = self.vocab
        words, before, after = vocab.by_word(caption)
        ids: list[int] = []
        while not ids and words:
            draws = rng.random(len(words))
            random = [rng.integers(len(vocab), size=len(x)).tolist() for x in words]
            ids = drop_words(words, draws, random, self.word_drop, vocab.mask_id)
        return [*before, *ids, *after], kept
