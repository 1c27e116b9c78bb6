"""Open .npy files, and read their rows safely even if the file changes."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.format import open_memmap

from itm.utils.contents import describe_file
from itm.utils.readers import check_regular

NPY = b"\x93NUMPY"
MOST_FORTRAN = 2**30  # bytes of an array in Fortran order that is read whole


def read_array(path: Path) -> np.ndarray:
    """Open a .npy file as a memory map.

    Arrays in Fortran order are read whole: their rows are scattered over the file, and a memory map
    ends the process if the file shrinks.

    Raises:
        ValueError: the file is truncated, not a .npy file, or a large one in Fortran order.
        OSError: the file cannot be opened.
    """
    check_regular(path)
    try:
        array = open_memmap(path, mode="r")  # np.load would accept other kinds of files
        return array if array.flags.c_contiguous else _in_rows(path, array)
    except (PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # a damaged header can raise anything
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        size = path.stat().st_size
        kind = describe_file(path, (NPY, b"")) if size else None
        if kind is not None:
            raise ValueError(
                f"{path} ({size} bytes) is not a complete .npy file but {kind}"
            ) from error
        if "Python objects" in str(error):
            raise ValueError(
                f"{path} holds pickled Python objects, which are not read; save one array of "
                "numbers with np.save, such as np.stack(list_of_arrays)"
            ) from error
        raise ValueError(
            f"{path} ({size} bytes) is not a complete .npy file ({error}); it may be truncated: "
            "compare its size with the source and copy it again"
        ) from error


def load_array(path: Path) -> np.ndarray:
    """Read a .npy file into memory, and not through a memory map.

    Raises:
        ValueError: as in `read_array`, or the file was changed while it was read.
        OSError: the file cannot be read.
    """
    array = read_array(path)
    return _load(path, array, "C") if isinstance(array, np.memmap) else array


def _in_rows(path: Path, array: np.memmap) -> np.ndarray:
    if array.nbytes > MOST_FORTRAN:
        raise ValueError(
            f"{path} is an array {array.shape} in Fortran order, whose rows are scattered over the "
            "file; write it in C order, for example in Python with "
            f"np.save('{path.name}', np.ascontiguousarray(np.load('{path.name}')))"
        )
    return np.ascontiguousarray(_load(path, array, "F"))


def _load(path: Path, array: np.memmap, order: Literal["C", "F"]) -> np.ndarray:
    """Read a mapped array whole, not through its map: the file may shrink."""
    with path.open("rb") as file:
        before = _identity(os.fstat(file.fileno()))
        file.seek(array.offset)
        flat: np.ndarray = np.fromfile(file, array.dtype, array.size)
        after = _identity(os.fstat(file.fileno()))
    if flat.size != array.size or before != after:
        raise ValueError(f"{path} was changed while it was read: leave it alone, and start again")
    return flat.reshape(array.shape, order=order)


class ArrayFile:
    """Rows of a .npy file that is open for the whole run.

    A memory map ends the process by SIGBUS when its file shrinks, and mixes old with new rows when
    its file is written again. Reads through the open file fail with an error instead.

    Args:
        path: the file.
        array: its memory map, which tells where the rows are.
        order: (n,) rows of the file that can be read; None = all.
    """

    def __init__(self, path: Path, array: np.ndarray, order: np.ndarray | None = None):
        self.path = path
        self.order = order
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self._array = array
        self._begin = getattr(array, "offset", 0)
        # Arrays in Fortran order are in memory, and Windows has no preadv.
        self._direct = isinstance(array, np.memmap) and hasattr(os, "preadv")
        self._opened = _identity(path.stat())
        self._handle: int | None = None
        self._open()

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens the file itself, and a memory map would travel as a copy.
        state = {**self.__dict__, "_handle": None}
        return {**state, "_array": None} if self._direct else state

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Read some rows: (n,) -> (n, ...).

        Raises:
            ValueError: the file was changed after it was opened.
            OSError: the file cannot be read.
        """
        rows = np.asarray(rows, np.int64)
        rows = rows if self.order is None else self.order[rows]
        if not self._direct:
            self.check()
            return np.asarray(self._array[rows])
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if out.size:
            flat = memoryview(out.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
            size = out.nbytes // len(rows)
            for start, stop in _runs(rows):
                self._read(flat[start * size : stop * size], self._begin + int(rows[start]) * size)
        self.check()  # after reading, so that no change goes unnoticed
        return out

    def __len__(self) -> int:
        return self.shape[0] if self.order is None else len(self.order)

    def first_regions(self, rows: np.ndarray) -> np.ndarray:
        """Read the first region of some rows of (n, R, F): (n, F); rows of (n, F) whole."""
        if not self._direct or self.ndim == 2:
            found = self[rows]
            return found[:, 0] if self.ndim == 3 else found
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), self.shape[2]), self.dtype)
        for line, row in zip(out, rows.tolist(), strict=True):
            place = self._begin + row * self.shape[1] * line.nbytes
            self._read(memoryview(line.view(np.uint8)), place)
        self.check()
        return out

    def check(self) -> None:
        """Raise ValueError if the file was written, cut or replaced since it was opened.

        A file that was removed can still be read.
        """
        try:
            now = self.path.stat()
        except FileNotFoundError:
            if self._handle is None:
                raise
            now = os.fstat(self._handle)
        if _identity(now) != self._opened:
            raise ValueError(
                f"{self.path} was changed during the run: it had {self._opened[2]} bytes, now it "
                f"has {now.st_size}, or was written again. Earlier and later batches would come "
                "from different files: leave the file alone during a run, and start again"
            )

    def _open(self) -> int:
        if self._handle is None:
            self._handle = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._handle)
        return self._handle

    def _read(self, buffer: memoryview, place: int) -> None:
        while len(buffer):
            try:
                done = os.preadv(self._open(), [buffer], place)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            if not done:
                self.check()
                raise ValueError(f"{self.path} ends before byte {place + len(buffer)}")
            buffer, place = buffer[done:], place + done


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _runs(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield where consecutive rows begin and end: one read for each run."""
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    yield from zip([0, *ends[:-1]], ends, strict=True)
