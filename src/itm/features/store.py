"""Write a folder in the SCAN layout: whole caption and id files, and features row by row.

Features are written through a memory map, so memory does not limit the number of images. Files get
their final names when they are complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from itm.utils.checks import check_choice
from itm.utils.files import move, write_text

DTYPES = ("float16", "float32")


def check_output(dtype: str, regions: int | None) -> None:
    """Check the options of features that are to be written.

    Raises:
        ValueError: another type, or less than one region.
    """
    check_choice("dtype", dtype, DTYPES)
    if regions is not None and regions < 1:
        raise ValueError(f"regions={regions} must be at least 1, or null for those of the images")


class Store:
    """Fill `{split}_ims.npy` and `{split}_boxes.npy`, with rows in any order.

    Args:
        folder: created if missing.
        split: name of the split.
        shape: (N, R, F).
        dtype: "float16" or "float32".
        boxes: also store boxes (N, R, 4), fractions of width and height.
        resume: keep the rows that were filled before a kill; `missing` lists the others.

    Raises:
        ValueError: another type, or the folder holds this split already, or with `resume` one of
            another shape.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        shape: tuple[int, int, int],
        dtype: str = "float16",
        boxes: bool = True,
        resume: bool = False,
    ):
        check_choice("dtype", dtype, DTYPES)
        self.folder, self.split = Path(folder), split
        self.folder.mkdir(parents=True, exist_ok=True)
        self.complete = self._path("ims").is_file()
        if self.complete and not resume:
            raise ValueError(f"{self._path('ims')} is there already; choose another out=")
        self._take_back()
        self._arrays: dict[str, np.ndarray] = {}
        self._written: list[int] = []
        wanted = {"ims": (shape, dtype), "done": (shape[:1], "bool")}
        if boxes:
            wanted["boxes"] = ((*shape[:2], 4), "float32")
        for name, (size, kind) in wanted.items():
            if not self.complete:
                self._arrays[name] = self._open(name, size, kind, resume)

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.split}_{name}.npy"

    def _take_back(self) -> None:
        """Undo or complete a `finish` that a kill interrupted; `finish` renames features last."""
        done, boxes = self._path("done.unfinished"), self._path("boxes")
        if self.complete:
            done.unlink(missing_ok=True)
        elif done.is_file() and boxes.is_file():
            move(boxes, self._path("boxes.unfinished"))
        elif boxes.is_file():
            raise ValueError(f"{boxes} is there without features; choose another out=")

    def _open(self, name: str, shape: tuple[int, ...], dtype: str, resume: bool) -> np.ndarray:
        path = self._path(f"{name}.unfinished")
        if resume and path.is_file():
            array = open_memmap(path, mode="r+")
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"{path} is {array.dtype} {array.shape}, expected {dtype} {shape}: delete "
                    f"{self.folder} or choose another out="
                )
            return array
        try:
            return open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        except OSError as error:  # a full disk
            error.filename = error.filename or str(path)
            raise

    @property
    def missing(self) -> np.ndarray:
        """Return the rows that are not filled yet."""
        return np.array([], int) if self.complete else np.flatnonzero(~self._arrays["done"])

    def write(
        self, rows: Sequence[int] | np.ndarray, features: np.ndarray, boxes: np.ndarray | None
    ) -> None:
        """Fill rows.

        Args:
            rows: n rows.
            features: (n, R, F).
            boxes: (n, R, 4), or None without boxes.

        Raises:
            ValueError: values that are not finite, or too large for the type of the file.
        """
        kept = features.astype(self._arrays["ims"].dtype)
        if not np.isfinite(kept).all():
            bad = [r for r, x in zip(rows, kept, strict=True) if not np.isfinite(x).all()]
            raise ValueError(
                f"{self.split} row {bad[0]} has NaN, infinite or too large values "
                f"(largest {np.nanmax(np.abs(features)):.3g}); dtype=float32 holds larger values"
            )
        self._arrays["ims"][rows] = kept
        if boxes is not None and "boxes" in self._arrays:
            self._arrays["boxes"][rows] = boxes
        self._written += [int(row) for row in rows]

    def holds(self, row: int, features: np.ndarray, boxes: np.ndarray | None) -> bool:
        """Return whether a row was filled with these features (R, F) and boxes (R, 4)."""
        given = {"ims": features} if boxes is None else {"ims": features, "boxes": boxes}
        files = [(self._arrays[name], values) for name, values in given.items()]
        return all(np.array_equal(kept[row], values.astype(kept.dtype)) for kept, values in files)

    def flush(self) -> None:
        """Write the filled rows to disk; from then on they count as done."""
        done = self._arrays.pop("done")
        for array in self._arrays.values():
            array.flush()  # type: ignore[attr-defined]
        done[self._written] = True
        done.flush()  # type: ignore[attr-defined]
        self._arrays["done"], self._written = done, []

    def finish(self) -> None:
        """Rename the files to their final names.

        Raises:
            ValueError: some rows are missing.
        """
        if self.complete:
            return
        self.flush()
        if len(self.missing):
            raise ValueError(f"{self.folder}: {len(self.missing)} rows of {self.split} are missing")
        names = [name for name in ("boxes", "ims") if name in self._arrays]
        self._arrays = {}
        for name in names:
            move(self._path(f"{name}.unfinished"), self._path(name))
        self._path("done.unfinished").unlink()
        self.complete = True


def write_captions(
    folder: str | Path, splits: Mapping[str, Sequence[str]], captions: Mapping[str, Sequence[str]]
) -> None:
    """Write `{split}_caps.txt` and `{split}_ids.txt` of every split.

    If all pictures of a split have the same number of captions, there is one id per picture.
    Otherwise there is one per caption, so that a reader sees where the next picture begins.
    """
    folder = Path(folder)
    for split, names in splits.items():
        counts = {len(captions[name]) for name in names}
        ids = [n for n in names for _ in range(1 if len(counts) == 1 else len(captions[n]))]
        lines = [caption for name in names for caption in captions[name]]
        write_text(folder / f"{split}_caps.txt", "".join(f"{line}\n" for line in lines))
        write_text(folder / f"{split}_ids.txt", "".join(f"{name}\n" for name in ids))


def report_fitted(counts: Sequence[int], regions: int) -> None:
    """Print how many images of `counts` regions `fit` changes."""
    more, fewer = (sum(n > regions for n in counts), sum(n < regions for n in counts))
    if more or fewer:
        print(
            f"regions={regions}: {more} images have more and lose the last ones, {fewer} have "
            "fewer and repeat theirs"
        )


def fit(array: np.ndarray, regions: int) -> np.ndarray:
    """Change (n, ...) to (regions, ...): keep the first regions, or repeat all of them.

    The layout has one number of regions. Whole repetitions change neither a mean nor a softmax over
    regions; rows of zeros would change both.
    """
    return array[np.arange(regions) % len(array)]
