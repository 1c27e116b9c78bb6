"""A split: the features of N images and the captions of each, as a view of files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from itm.data.array_file import ArrayFile, read_array
from itm.data.caption_file import caption_path, read_captions
from itm.data.names import Names, is_numbered
from itm.data.padding import Arrays


@dataclass(frozen=True)
class Split:
    """One split: N images and M captions.

    Attributes:
        name: name of the split, such as "train".
        folder: folder of its files.
        features: (rows, R, F) or (rows, F) memory map; rows may repeat an image.
        row: (N,) row of `features` of each image.
        captions: M sentences.
        caption_image: (M,) image of each caption.
        ids: N names, or None.
        boxes: (rows, R, 4), or None.
        protocol: how the split is evaluated, see `itm.metrics`.
        caption_row: (M,) line of each caption in its file, or None if these are the first M lines.
        file: the file of `features`, from which batches are read; None = from `features`.

    Examples:
        >>> from itm.data import read_split
        >>> from itm.scenes import write_scenes
        >>> split = read_split(write_scenes(images=(8, 4, 4)), "test")
        >>> split.num_images, len(split.captions), split.regions, split.width
        (4, 20, 12, 64)
    """

    name: str
    folder: Path
    features: np.ndarray
    row: np.ndarray
    captions: list[str]
    caption_image: np.ndarray
    ids: list[str] | None = None
    boxes: np.ndarray | None = None
    protocol: str = "full"
    caption_row: np.ndarray | None = None
    file: ArrayFile | None = None

    @property
    def noun(self) -> str:
        """Return what a sentence is called in tables and messages."""
        return "caption"

    @property
    def num_images(self) -> int:
        """Return N, the number of distinct images."""
        return len(self.row)

    @property
    def regions(self) -> int:
        """Return R, the number of regions per image."""
        return self.features.shape[1] if self.features.ndim == 3 else 1

    @property
    def width(self) -> int:
        """Return F, the feature width."""
        return self.features.shape[-1]

    def images(self, rows: np.ndarray, as_stored: bool = False) -> np.ndarray:
        """Read features of some images: (n, R, F) float32.

        Args:
            rows: the images, or a mask of all of them.
            as_stored: leave float16 as it is.

        Raises:
            ValueError: a value is NaN or infinite (the message names file and row), or the file was
                changed since the split was read.
        """
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else rows
        source = self.features if self.file is None else self.file
        block = np.asarray(source[self.row[rows]])
        block = block if as_stored and block.dtype == np.float16 else np.asarray(block, np.float32)
        if not np.isfinite(block).all():
            bad = next(i for i, x in zip(rows, block, strict=True) if not np.isfinite(x).all())
            raise ValueError(
                f"{self.folder / self.name}_ims.npy row {self.row[bad]} holds NaN or infinite "
                "values; extract these features again or drop the image"
            )
        return block.reshape(len(rows), self.regions, self.width)

    def view(self) -> ImageView:
        """Return the distinct images as a sequence that reads an image when it is sliced."""
        return ImageView(self)

    def references(self, captions: int | None = None) -> list[list[str]]:
        """Return the captions of each image.

        Args:
            captions: use only this many captions, and leave out images without any.
        """
        every: list[list[str]] = [[] for _ in range(self.num_images)]
        for caption, image in list(zip(self.captions, self.caption_image, strict=True))[:captions]:
            every[image].append(caption)
        return every if captions is None else [group for group in every if group]

    def target(self, rows: Sequence[int] | np.ndarray) -> np.ndarray | None:
        """Return which regions the captions mean: (n, R) float32 in {+1, 0, -1}.

        None if captions mean whole images.
        """
        return None

    def sentence_vectors(self) -> np.ndarray:
        """Read `{split}_caps.npy`, precomputed sentence vectors (M, F), into memory.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: not a float matrix, or its rows differ in number from the captions.
        """
        return self.sentence_file()[np.arange(len(self.captions))]

    def sentence_width(self) -> int:
        """Return F, the width of the same vectors."""
        return self._vectors()[1].shape[1]

    def sentence_file(self) -> ArrayFile:
        """Open the same vectors for reading batches: index it with rows of captions."""
        return ArrayFile(*self._vectors(), self.caption_row)

    def _vectors(self) -> tuple[Path, np.ndarray]:
        path = self.folder / f"{self.name}_caps.npy"
        if not path.is_file():
            raise FileNotFoundError(f"text=vectors needs {path}, one row per caption")
        vectors = read_array(path)
        captions = caption_path(self.folder, self.name)
        lines = len(read_captions(captions))
        if vectors.ndim != 2 or len(vectors) != lines or vectors.dtype.kind != "f":
            raise ValueError(
                f"{path} is {vectors.dtype} {vectors.shape}, expected float ({lines}, F), a row "
                f"for each line of {captions.name}"
            )
        return path, vectors

    def first_captions(self, most: int) -> Split:
        """Keep the first `most` captions of each image, if no image has fewer."""
        counts = np.bincount(self.caption_image, minlength=self.num_images)
        if counts.min() < most or counts.max() == most:
            return self
        begins = np.cumsum(counts) - counts
        keep = np.flatnonzero(np.arange(len(self.captions)) - begins[self.caption_image] < most)
        return replace(
            self,
            captions=[self.captions[i] for i in keep],
            caption_image=self.caption_image[keep],
            caption_row=keep,
        )

    def head(self, images: int | None) -> Split:
        """Return the first `images` images with their captions."""
        if images is None or images >= self.num_images:
            return self
        if images < 0:
            raise ValueError(f"the first {images} images of a split: expected 0 or more")
        keep = self.caption_image < images
        return replace(
            self,
            row=self.row[:images],
            captions=[c for c, k in zip(self.captions, keep, strict=True) if k],
            caption_image=self.caption_image[keep],
            caption_row=None if self.caption_row is None else self.caption_row[keep],
            ids=self.ids and self.ids[:images],
        )


def check_width(split: Split, others: Iterable[Split]) -> None:
    """Refuse splits of different widths when they are read, not after an epoch.

    Raises:
        ValueError: another split has another width.
    """
    for other in others:
        if other.width != split.width:
            raise ValueError(
                f"{split.name}_ims.npy of {split.folder} has features of width {split.width}, "
                f"{other.name}_ims.npy of width {other.width}: extract both in the same way"
            )


def describe(splits: dict[str, Split], trained: int | None = None) -> str:
    """Describe each split in a line: stage, and name if it differs; images, captions, features.

    A warning follows the line of a split for evaluation that has one image.

    Args:
        splits: stage -> split.
        trained: captions of "train" that are trained on, from the first line; None = all.
    """
    names = [s if s == x.name else f"{s} ({x.name})" for s, x in splits.items()]
    width = max(map(len, names))
    lines = []
    for name, (stage, split) in zip(names, splits.items(), strict=True):
        nouns = f"{getattr(split, 'noun', 'caption')}s"
        lines.append(
            f"{name:{width}}  {split.num_images} images, {len(split.captions)} {nouns}, "
            f"{split.regions} regions of width {split.width}, {split.features.dtype}"
        )
        if stage == "train" and trained not in (None, len(split.captions)):
            images = len(np.unique(split.caption_image[:trained]))
            lines[-1] += f"; trained on the first {trained} {nouns}, of {images} images"
        lines += [] if stage == "train" else warnings_of(split)
    return "\n".join(lines)


def warnings_of(split: Split) -> list[str]:
    """List what makes scores on a split meaningless: a single image, which every query finds."""
    if split.num_images != 1:
        return []
    return [f"warning: {split.name} has one image, so every recall on it is 100 by construction"]


class ImageView:
    """Features of a split's distinct images: `len` and slices, like an array on disk.

    Examples:
        >>> from itm.data import RegionDataModule
        >>> from itm.scenes import write_scenes
        >>> data = RegionDataModule(write_scenes(images=(8, 4, 4)), min_count=1)
        >>> data.setup()
        >>> view = data.test_split.view()
        >>> len(view), view[:2].shape
        (4, (2, 12, 64))
    """

    def __init__(self, split: Split):
        self.split = split

    def __len__(self) -> int:
        return self.split.num_images

    def __getitem__(self, rows: slice) -> np.ndarray:
        if not isinstance(rows, slice):
            raise ValueError(
                f"a view is read by slices: [{rows}:{rows} + 1], or split.images(rows)"
            )
        return self.split.images(np.arange(len(self))[rows])


Features = Arrays | ImageView


def find_row(split: Split, image: str | int | None) -> int:
    """Find the row of an image by its id, else by its row number; the first row by default.

    Ids are found in all forms that `itm.data.names.Names` knows. Row numbers are not accepted if
    all ids hold numbers, such as 17.jpg or COCO_val2014_000000000017.jpg. Without an image 17, 17
    must not mean the image in row 17.

    Raises:
        ValueError: no such id or number, or an id that could mean two images.
    """
    if image is None:
        return 0
    ids = split.ids or []
    found = Names(ids).find(image)
    if found is not None:
        return ids.index(found)
    numbered = bool(ids) and all(is_numbered(name) for name in ids)
    if str(image).isdecimal() and int(image) < split.num_images and not numbered:
        return int(image)
    known = f"an id such as {ids[0]!r}" if ids else ""
    row = "" if numbered else f"a number from 0 to {split.num_images - 1}"
    raise ValueError(
        f"image={image} is not in split {split.name} of {split.folder}: give "
        f"{' or '.join(filter(None, (known, row)))}"
    )


def name_of(split: Split, row: int) -> str:
    """Return an image's id, or its number if there are no ids."""
    return str(row) if split.ids is None else split.ids[row]
