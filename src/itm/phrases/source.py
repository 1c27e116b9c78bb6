"""Choose the phrases to train on, and the regions that match them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from itm.data.layout import Split
from itm.phrases.files import read_phrases
from itm.phrases.split import PhraseSplit, phrase_split


@dataclass(frozen=True)
class PhraseSource:
    """Describe where phrases come from, and which regions match them in training.

    Args:
        path: folder or file, see `itm.phrases.files.read_phrases`; None = the file beside the
            features.
        positive_iou: see `PhraseSplit`. CITE trains with 0.6; the evaluation uses 0.5.
        negative_iou: see `PhraseSplit`. CITE trains with 0.3.

    Raises:
        ValueError: not 0 < negative_iou <= positive_iou <= 1.

    Examples:
        >>> from itm.data import read_split
        >>> from itm.phrases import PhraseSource
        >>> from itm.scenes import write_scenes
        >>> split = read_split(write_scenes(images=(8, 4, 4)), "test")
        >>> len(PhraseSource().split(split).phrases) > 0
        True
    """

    path: str | Path | None = None
    positive_iou: float = 0.6
    negative_iou: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(
                f"negative_iou={self.negative_iou}, positive_iou={self.positive_iou}: expected "
                "0 < negative_iou <= positive_iou <= 1"
            )

    def split(self, split: Split, train: bool = False) -> PhraseSplit:
        """Read the phrases of a split; for training, keep only phrases that match a region.

        Raises:
            ValueError: no phrase belongs to an image, or, for training, none matches a region.
        """
        phrases = read_phrases(self.path, split)
        whole = phrase_split(split, phrases, self.positive_iou, self.negative_iou)
        if not train:
            return whole
        best = whole.overlaps(range(len(whole.phrases))).max(1, initial=0)
        kept = [whole.phrases[row] for row in np.flatnonzero(best >= self.positive_iou)]
        if not kept:
            raise ValueError(
                f"no region of {split.folder} {split.name} overlaps its phrase's box by "
                f"{self.positive_iou}; do boxes and phrases belong to the same images?"
            )
        return phrase_split(split, kept, self.positive_iou, self.negative_iou)
