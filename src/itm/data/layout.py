"""Read splits in the SCAN layout, in all forms that are in use.

`{split}_ims.npy`: (rows, R, F) or (rows, F), float32 or float16; each image has one row, or one row
per caption. `{split}_caps.txt`: one caption a line, the captions of an image on consecutive lines.
Optional: `{split}_ids.txt` (one id per image, per row, or per caption, which tells images with
unequally many captions apart), `{split}_boxes.npy` (rows, R, 4).
"""

from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from itm.data.padding import Arrays
from itm.data.repeated import repeated_rows

FIVE_EACH = ("coco_1k", "coco_5k")  # COCO's images have five to seven captions; these take five


@dataclass(frozen=True)
class Split:
    """One split: N images and M captions.

    Attributes:
        name: such as "train".
        folder: where it was read.
        features: (rows, R, F) memory map; rows may repeat an image.
        row: (N,) row of `features` of each image.
        captions: M sentences.
        caption_image: (M,) image of each caption.
        ids: N names, or None.
        boxes: (rows, R, 4) memory map, or None.
        protocol: how the split is evaluated, see `itm.metrics`.
        caption_row: (M,) line of each caption in its file, or None if these are the first M lines.
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

    @property
    def num_images(self) -> int:
        """N, distinct images."""
        return len(self.row)

    @property
    def regions(self) -> int:
        """R, regions per image."""
        return self.features.shape[1] if self.features.ndim == 3 else 1

    @property
    def width(self) -> int:
        """F, feature width."""
        return self.features.shape[-1]

    def images(self, rows: np.ndarray) -> np.ndarray:
        """(n, R, F) float32 features of some images.

        Raises:
            ValueError: a value is NaN or infinite; names the file and the image.
        """
        block = np.asarray(self.features[self.row[rows]], np.float32)
        if not np.isfinite(block).all():
            bad = next(i for i, x in zip(rows, block, strict=True) if not np.isfinite(x).all())
            raise ValueError(
                f"{self.folder / self.name}_ims.npy row {self.row[bad]} holds NaN or infinite "
                "values; extract these features again or drop the image"
            )
        return block.reshape(len(rows), -1, self.width)

    def view(self) -> "ImageView":
        """Return the distinct images as a sequence that reads an image when it is sliced."""
        return ImageView(self)

    def references(self, captions: int | None = None) -> list[list[str]]:
        """Return the captions of each image.

        Args:
            captions: use the first so many captions only, and leave out images without any.
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
        """Read `{split}_caps.npy`, precomputed sentence vectors (M, F), as a memory map.

        Raises:
            FileNotFoundError: no such file.
            ValueError: fewer rows than captions.
        """
        path = self.folder / f"{self.name}_caps.npy"
        if not path.is_file():
            raise FileNotFoundError(f"text=vectors needs {path}, one row per caption")
        vectors = read_array(path)
        if vectors.ndim != 2 or len(vectors) < len(self.captions):
            raise ValueError(f"{path} is {vectors.shape}, expected ({len(self.captions)}, F)")
        return (
            vectors[: len(self.captions)] if self.caption_row is None else vectors[self.caption_row]
        )

    def first_captions(self, most: int) -> "Split":
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

    def head(self, images: int | None) -> "Split":
        """Return the first `images` images with their captions."""
        if images is None or images >= self.num_images:
            return self
        keep = self.caption_image < images
        return replace(
            self,
            row=self.row[:images],
            captions=[c for c, k in zip(self.captions, keep, strict=True) if k],
            caption_image=self.caption_image[keep],
            caption_row=None if self.caption_row is None else self.caption_row[keep],
            ids=self.ids and self.ids[:images],
        )


class ImageView:
    """Features of a split's distinct images: `len` and slices, like an array on disk."""

    def __init__(self, split: Split):
        self.split = split

    def __len__(self) -> int:
        return self.split.num_images

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.split.images(np.arange(len(self))[rows])


def read_captions(path: Path) -> list[str]:
    r"""Read the captions of a file, one a line; only "\n" ends a line.

    Text mode would also split at carriage returns and rare separators, and so shift every later
    caption.

    Raises:
        ValueError: a blank line or bytes that are not UTF-8, with the line's number.
    """
    lines = path.read_bytes().removeprefix(BOM_UTF8).split(b"\n")
    if lines and not lines[-1].strip():
        lines.pop()
    captions = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise ValueError(f"{path}:{number}: blank line; every line must hold one entry")
        try:
            captions.append(line.decode("utf-8").strip())
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start}); convert the "
                "file, for example with iconv -f latin1 -t utf-8"
            ) from error
    return captions


def read_array(path: Path) -> np.ndarray:
    """Open a .npy file as a memory map.

    Raises:
        ValueError: the file is truncated, or not a .npy file.
    """
    try:
        return open_memmap(path, mode="r")  # np.load would accept other kinds of files
    except Exception as error:  # a damaged header can raise anything
        size = path.stat().st_size
        raise ValueError(
            f"{path} ({size} bytes) is no complete .npy file ({error}); it may be truncated: "
            "compare its size with the source and copy it again"
        ) from error


def read_split(
    root: str | Path, name: str, captions_per_image: int | None = None, protocol: str = "full"
) -> Split:
    """Read one split; only the captions are loaded.

    Args:
        root: folder of the files.
        name: "train", "dev", "test", "testall", ...
        captions_per_image: inferred when None.
        protocol: of the evaluation; those of COCO keep the first five captions of each image.

    Raises:
        FileNotFoundError: a file is missing; the message lists the files wanted and found.
        ValueError: files that contradict each other or are broken.
    """
    root = Path(root).expanduser()
    ims, caps = root / f"{name}_ims.npy", root / f"{name}_caps.txt"
    missing = [str(path) for path in (ims, caps) if not path.is_file()]
    if missing:
        there = sorted(p.name for p in root.iterdir())[:20] if root.is_dir() else "no such folder"
        other = ""
        if name == "testall" and (root / "test_ims.npy").is_file():
            other = ", or read the test split that is there with data.test=test"
        raise FileNotFoundError(
            f"split {name!r} of {root} needs {ims.name} and {caps.name}; missing: "
            f"{', '.join(missing)}; found there: {there}. Set data.root to the folder that holds "
            f"them (see `python -m itm.prepare`){other}"
        )
    features, captions = read_array(ims), read_captions(caps)
    if features.ndim not in (2, 3) or features.dtype.kind != "f" or 0 in features.shape[1:]:
        raise ValueError(
            f"{ims}: expected a float array (images, regions, width) or (images, width), found "
            f"{features.dtype} {features.shape}"
        )
    if not len(features) or not captions:
        raise ValueError(
            f"split {name!r} of {root} is empty: {len(features)} images, {len(captions)} captions"
        )
    ids = _read_ids(root / f"{name}_ids.txt")
    row, caption_image = _assign(features, captions, captions_per_image, ids, ims, caps)
    if ids is not None and len(ids) == len(captions) > len(features):
        ids = [ids[i] for i in _changes(ids)]
    if ids is not None:
        ids = _ids_per_image(ids, row, len(features), root / f"{name}_ids.txt")
    boxes = root / f"{name}_boxes.npy"
    box_array = read_array(boxes) if boxes.is_file() else None
    if box_array is not None and box_array.shape != (*features.shape[:2], 4):
        raise ValueError(
            f"{boxes}: expected {(*features.shape[:2], 4)} for {ims.name} {features.shape}, found "
            f"{box_array.shape}"
        )
    split = Split(name, root, features, row, captions, caption_image, ids, box_array, protocol)
    return split.first_captions(5) if protocol in FIVE_EACH else split


def _read_ids(path: Path) -> list[str] | None:
    return read_captions(path) if path.is_file() else None


def _assign(
    features: np.ndarray,
    captions: list[str],
    per_image: int | None,
    ids: list[str] | None,
    ims: Path,
    caps: Path,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the feature row of each image (N,) and the image of each caption (M,)."""
    rows, lines = len(features), len(captions)
    if rows == lines and per_image != 1 and not lines % (per_image or 1):
        starts = _runs(features, per_image, ids, ims)
        return starts, np.searchsorted(starts, np.arange(lines), side="right") - 1
    found = lines // rows
    begins = _changes(ids) if ids is not None and len(ids) == lines else []
    if len(begins) == rows and per_image is None:
        return np.arange(rows), np.searchsorted(begins, np.arange(lines), side="right") - 1
    if lines % rows or (per_image is not None and found != per_image):
        expected = f"{per_image or 5} captions per image"
        raise ValueError(
            f"{caps} has {lines} captions but {ims} has {rows} images: expected {expected}, that "
            f"is {rows * (per_image or 5)} lines (or one feature row per caption, {lines} rows); "
            "a line is missing or too many"
        )
    return np.arange(rows), np.arange(lines) // found


def _runs(
    features: np.ndarray, per_image: int | None, ids: list[str] | None, ims: Path
) -> np.ndarray:
    """Find the first row of each image in a file with as many rows as captions.

    Raises:
        ValueError: it cannot be told whether equal rows are one image.
    """
    if per_image is not None:
        return np.arange(0, len(features), per_image)
    if ids is not None and len(ids) == len(features):
        return np.array(_changes(ids))
    starts = np.flatnonzero(~repeated_rows(features))
    lengths = np.diff([*starts, len(features)])
    repeats = lengths.min()
    if len(starts) == len(features) or (repeats > 1 and not (lengths % repeats).any()):
        return np.arange(0, len(features), repeats)
    same = starts[lengths.argmax()]
    raise ValueError(
        f"{ims} has as many rows as there are captions, and some equal rows (such as {same} and "
        f"{same + 1}), but not each image equally often: data.captions_per_image=1 says that each "
        f"row is an image, data.captions_per_image=5 that each image has 5 rows; or write "
        f"{ims.name.removesuffix('_ims.npy')}_ids.txt with the image of each row"
    )


def _changes(ids: list[str]) -> list[int]:
    """Find where another id begins."""
    return [i for i in range(len(ids)) if i == 0 or ids[i] != ids[i - 1]]


def _ids_per_image(ids: list[str], row: np.ndarray, rows: int, path: Path) -> list[str]:
    """Return one id per image from a file with one per image or one per feature row.

    Raises:
        ValueError: another count, or an id that names two images.
    """
    if len(ids) == rows:
        ids = [ids[i] for i in row]
    if len(ids) != len(row):
        raise ValueError(f"{path} has {len(ids)} ids for {len(row)} images in {rows} rows")
    if len(set(ids)) != len(ids):
        seen: dict[str, int] = {}
        for i, name in enumerate(ids):
            if name in seen:
                raise ValueError(
                    f"{path}: id {name!r} names image {seen[name]} and image {i}; ids must differ"
                )
            seen[name] = i
    return ids


Features = Arrays | ImageView


def find_row(split: Split, image: str | int | None) -> int:
    """Find the row of an image by its id, else by its number; the first row by default.

    Raises:
        ValueError: no such id or number.
    """
    if image is None:
        return 0
    if split.ids is not None and str(image) in split.ids:
        return split.ids.index(str(image))
    if str(image).isdecimal() and int(image) < split.num_images:
        return int(image)
    known = "" if split.ids is None else f"an id such as {split.ids[0]!r} or "
    raise ValueError(
        f"image={image} is not in split {split.name} of {split.folder}: give {known}a number from "
        f"0 to {split.num_images - 1}"
    )


def name_of(split: Split, row: int) -> str:
    """Return an image's id, or its number if there are no ids."""
    return str(row) if split.ids is None else split.ids[row]
