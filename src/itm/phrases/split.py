"""Define phrases with boxes, and a split whose captions are phrases."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, NoReturn

import numpy as np

from itm.data.boxes import Box, edges, fractions_of, in_pixels, overlaps
from itm.data.layout import Split, name_of

BLOCK = 4096  # phrases compared with their regions at once: about 100 bytes for each pair


class Phrase(NamedTuple):
    """A phrase of a caption, and the box of the object it refers to.

    Attributes:
        image: row of the image in its split.
        text: the words.
        box: the box up to its edges, in the units of the region boxes of the split. If the phrase
            has several boxes, the smallest box around all of them.
        type: such as "people"; several types are joined by "/"; empty if unknown.
        caption: words of the sentence around the phrase, split at blanks; empty if unknown.
        span: (start, stop) of the phrase in the words of the caption.

    Examples:
        >>> from itm.phrases import Phrase
        >>> Phrase(image=0, text="a red ball", box=(0, 0, 20, 10)).text
        'a red ball'
    """

    image: int
    text: str
    box: Box
    type: str = ""
    caption: tuple[str, ...] = ()
    span: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class PhraseSplit(Split):
    """A split whose captions are phrases, each with a box.

    Attributes:
        phrases: M phrases; `captions` holds their texts.
        positive_iou: a region matches a phrase if it overlaps the box by at least this much.
        negative_iou: a region is a negative if it overlaps the box by less than this. Training
            ignores the regions in between.

    Examples:
        >>> from itm.data import read_split
        >>> from itm.phrases import PhraseSource
        >>> from itm.scenes import write_scenes
        >>> split = PhraseSource().split(read_split(write_scenes(images=(8, 4, 4)), "test"))
        >>> split.captions[0] == split.phrases[0].text
        True
    """

    phrases: tuple[Phrase, ...] = ()
    positive_iou: float = 0.5
    negative_iou: float = 0.5

    @property
    def noun(self) -> str:
        """Return what a sentence is called in tables and messages."""
        return "phrase"

    def head(self, images: int | None) -> "PhraseSplit":
        """Return the first `images` images with their phrases."""
        cut = super().head(images)
        assert isinstance(cut, PhraseSplit)
        return replace(cut, phrases=self.phrases[: len(cut.captions)])

    def sentence_width(self) -> NoReturn:
        """Raise an error, because `{split}_caps.npy` holds vectors of captions, not of phrases."""
        raise ValueError(
            f"text=vectors reads {self.name}_caps.npy, which holds vectors of captions, not of "
            "phrases: choose text=mean, attend or gru"
        )

    def sentence_file(self) -> NoReturn:
        """Raise the error of `sentence_width`."""
        self.sentence_width()

    def region_boxes(self, images: np.ndarray) -> np.ndarray:
        """Return the region boxes (n, R, 4) of some images; each box reaches up to its edges."""
        assert self.boxes is not None
        boxes = np.asarray(self.boxes[self.row[images]], np.float64)
        return edges(boxes) if in_pixels(self.boxes) else boxes

    def overlaps(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Compute the overlap (n, R) of phrases with the regions of their images."""
        rows = np.asarray(rows, np.int64)
        found = np.empty((len(rows), self.regions))
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            truth = np.array([self.phrases[row].box for row in rows[block]])
            found[block] = overlaps(self.region_boxes(self.caption_image[rows[block]]), truth)
        return found

    def target(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Label regions, (n, R) float32: 1 = matches the phrase, -1 = negative, 0 = ignored."""
        found = self.overlaps(rows)
        wrong = np.where(found < self.negative_iou, -1.0, 0.0)
        return np.where(found >= self.positive_iou, 1.0, wrong).astype(np.float32)


def region_fractions(split: PhraseSplit, image: int, size: tuple[int, int]) -> np.ndarray:
    """Return the region boxes (R, 4) of an image as fractions of its picture of this size.

    Raises:
        ValueError: the boxes are not in the picture.
    """
    assert split.boxes is not None
    boxes, pixels = split.region_boxes(np.array([image]))[0], in_pixels(split.boxes)
    return fractions_of(boxes, size, pixels, f"boxes of image {name_of(split, image)}")


def phrase_split(
    split: Split, phrases: Sequence[Phrase], positive_iou: float = 0.5, negative_iou: float = 0.5
) -> PhraseSplit:
    """Replace the captions of a split by phrases, in the order of its images.

    Raises:
        ValueError: there are no phrases, or the split has no region boxes.
    """
    if split.boxes is None:
        raise ValueError(
            f"{split.folder} has no {split.name}_boxes.npy with the boxes (images, regions, 4) of "
            "its regions; the features published with SCAN have no boxes: use features with boxes "
            "(docs/features.md)"
        )
    if not phrases:
        raise ValueError(f"no phrase belongs to an image of split {split.name} of {split.folder}")
    phrases = sorted(phrases, key=lambda phrase: phrase.image)
    own = {field.name: getattr(split, field.name) for field in fields(Split)}
    own |= {
        "captions": [phrase.text for phrase in phrases],
        "caption_image": np.array([phrase.image for phrase in phrases]),
        "caption_row": None,  # lines of captions, which phrases have not
        "protocol": "full",
    }
    return PhraseSplit(
        **own, phrases=tuple(phrases), positive_iou=positive_iou, negative_iou=negative_iou
    )
