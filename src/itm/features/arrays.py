"""Read a folder with one .npy or .npz file per image, named as the image."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from itm.data.array_file import load_array
from itm.features.members import FEATURES, KNOWN, make_record, some
from itm.features.records import Record
from itm.utils.archive import read_npz
from itm.utils.picture_files import report_linked_folders


def read_arrays(folder: str | Path) -> Iterator[Record]:
    """Read the files below a folder, sorted by name; each is opened when its turn comes.

    A .npz may hold features, boxes, the image's size and its number of regions under the names of
    `itm.features.members`. Other members, such as pickled objects, are not read.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the folder has no such files, or a file is damaged or holds other arrays.
    """
    folder = Path(folder).expanduser()
    if not folder.exists():
        raise FileNotFoundError(f"source={folder}: no such folder")
    if not folder.is_dir():
        raise ValueError(f"source={folder} is a file, expected a folder of .npy or .npz files")
    below = sorted(folder.rglob("*"))
    report_linked_folders(folder, below)
    entries = [path for path in below if not path.is_dir()]
    paths = [p for p in entries if p.suffix.lower() in (".npy", ".npz") and p.is_file()]
    if not paths:
        raise ValueError(f"{folder} holds no .npy or .npz file")
    if others := [p.relative_to(folder).as_posix() for p in entries if p not in set(paths)]:
        print(
            f"left out: {len(others)} entries of {folder} other than .npy and .npz files, such as "
            f"{', '.join(others[:3])}"
        )
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.suffix.lower() == ".npy":
            yield Record(name, load_array(path))
        else:
            yield _from_npz(path, name)


def _from_npz(path: Path, image: str) -> Record:
    try:
        arrays = read_npz(path, KNOWN)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    if not arrays:
        with zipfile.ZipFile(path) as archive:
            held = [member.removesuffix(".npy") for member in archive.namelist()]
        raise ValueError(
            f"{path} cannot be used: expected one of {', '.join(FEATURES)}, of one image, found "
            f"{some(held)}"
        )
    return make_record(image, arrays, f"{path} cannot be used")
