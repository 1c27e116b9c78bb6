"""Read zip archives: notice damage, and refuse sizes that a file only claims."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np

from itm.utils.readers import check_regular, reading

MEMBERS = 100_000
SMALL = 2**28  # bytes that any archive may hold; a larger one may hold 20 times its own size
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def damage(path: str | Path) -> str | None:
    """Describe the damage of a checkpoint file; None if all its bytes are as they were written."""
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as file:
            check_members(file, Path(path).stat().st_size)
            broken = file.testzip()
    except FileNotFoundError:
        return "it does not exist"
    except Exception as error:  # a damaged archive can raise anything
        return f"it is cut off or not a checkpoint ({error})"
    return None if broken is None else f"its part {broken} is damaged"


def check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse an archive of `size` bytes that would become far larger when it is read.

    Raises:
        ValueError: it claims too many members or bytes.
    """
    members = archive.infolist()
    claimed = sum(member.file_size for member in members)
    if len(members) > MEMBERS or claimed > max(SMALL, 20 * size):
        raise ValueError(
            f"its {len(members)} members claim {claimed} bytes, the file has {size}; expected at "
            f"most {MEMBERS} members and {max(SMALL, 20 * size)} bytes"
        )


def read_npz(path: str | Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file by name; nothing is unpickled.

    Sizes are compared with the file's before memory is reserved, and checksums are compared.

    Args:
        path: the file.
        names: the arrays to read; None = all.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, holds objects or would become too large.
    """
    path = Path(path)
    problem = "could not be read safely: expected an .npz file of plain arrays"
    with reading(path, problem), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        check_members(archive, path.stat().st_size)
        members = [(name.removesuffix(".npy"), name) for name in archive.namelist()]
        if len(dict(members)) != len(members):
            raise ValueError("it holds two arrays of one name")
        return {
            name: read_npy(archive.read(member))
            for name, member in members
            if names is None or name in names
        }


def read_npy(data: bytes) -> np.ndarray:
    """Read the array in the bytes of a .npy file.

    Raises:
        ValueError: the bytes are not those of an array of numbers or strings.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"version {version} of the .npy format is unknown")
    shape, fortran, dtype = HEADERS[version](file)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"arrays {shape} of {dtype} are not read")
    expected, found = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if expected != found:
        raise ValueError(f"an array {shape} of {dtype} has {found} bytes, expected {expected}")
    flat: np.ndarray = np.frombuffer(data, dtype, offset=file.tell())
    whole: np.ndarray = flat.reshape(shape, order="F" if fortran else "C").copy(order="K")
    return whole
