"""Read the nodes of an HDF5 file, but no other file that it refers to.

A file may name other files: by external links, by raw data in external storage, or by virtual data
sets. A file from elsewhere could thus copy private files into features. All three are refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from itm.utils.archive import SMALL

MOST_LINKS = 16  # links that one name may follow
SECONDS = 60  # limit for reading names of variable length
# libhdf5 may loop for ever in a damaged heap, and copy one long name for each of many rows.
READ_NAMES = """
import json, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**32, resource.getrlimit(resource.RLIMIT_AS)[1]))
except (ImportError, OSError, ValueError):  # no such limit here, or a lower one
    pass
import h5py
with h5py.File(sys.argv[1], "r") as file:
    names = file[sys.argv[2]][()].ravel()
    names = [x.decode() if isinstance(x, bytes) else str(x) for x in names]
    if sum(map(len, names)) > int(sys.argv[3]):
        sys.exit("too long")
    print(json.dumps(names))
"""
LARGER = 20  # largest ratio of the features to their compressed file


class Group(Mapping[str, Any]):
    """Data sets and groups by name; links within the file are followed.

    Args:
        group: an open file or group of h5py.
        path: of the file.

    Raises:
        ValueError: on access to a node that lies in another file, or that claims far more bytes
            than the file has.
    """

    def __init__(self, group: Any, path: Path):
        self._group, self._path = group, path
        self._most = int(max(SMALL, LARGER * path.stat().st_size))  # bytes of one data set

    def __iter__(self) -> Iterator[str]:
        return iter(self._group)

    def __len__(self) -> int:
        return len(self._group)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._group.id.links.exists(name.encode("utf-8"))

    def __getitem__(self, name: str) -> Any:
        node = self._follow(self._group, name, 0)
        if hasattr(node, "keys"):
            return Group(node, self._path)
        self._check(node, name)
        return self._names(node, name) if node.dtype.hasobject else node

    def number(self, name: str) -> float | None:
        """Read an attribute that holds a number; None without it."""
        if name not in self._group.attrs:
            return None
        if self._group.attrs.get_id(name).dtype.kind not in "iuf":
            raise ValueError(f"{self._path}: attribute {name} must be a number")
        return float(self._group.attrs[name])

    def _names(self, node: Any, name: str) -> np.ndarray:
        """Read strings of variable length in a process of its own, which can be ended."""
        from h5py import check_string_dtype, check_vlen_dtype  # late, as below

        if check_string_dtype(node.dtype) is None:
            remedy = ""
            if check_vlen_dtype(node.dtype) is not None:
                remedy = (
                    ": rows of variable length are not read; write a group with one data set "
                    "(regions, width) for each image, or one array (images, regions, width) with "
                    "num_boxes"
                )
            raise ValueError(
                f"{self._path}: {name} holds {node.dtype}, expected numbers or strings{remedy}"
            )
        command = [sys.executable, "-c", READ_NAMES, str(self._path.resolve()), node.name]
        command.append(str(self._most))
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
            return np.array(json.loads(done.stdout), object).reshape(node.shape)
        except (subprocess.SubprocessError, ValueError) as error:
            raise ValueError(
                f"{self._path}: the strings in {name} could not be read within {SECONDS} seconds, "
                f"4 GiB of memory and {self._most} bytes; the file is damaged, or write them with "
                "a fixed size (dtype 'S')"
            ) from error

    def _follow(self, group: Any, name: str, links: int) -> Any:
        """Open a node, link by link, so that no step leaves the file."""
        from h5py import h5l  # late: h5py is optional, and only its files come here

        key = name.encode("utf-8")
        if not hasattr(group, "keys") or not group.id.links.exists(key):
            raise ValueError(f"{self._path}: a link leads to {name}, which does not exist")
        kind = group.id.links.get_info(key).type
        if kind == h5l.TYPE_HARD:
            return group[name]
        if kind != h5l.TYPE_SOFT or links == MOST_LINKS:
            raise ValueError(
                f"{self._path}: {name} is a link to another file, or one of a long chain of links; "
                "copy what it leads to into this file, for example with h5repack"
            )
        target = group.id.links.get_val(key).decode("utf-8")
        node = group.file if target.startswith("/") else group
        for part in target.split("/"):
            if part not in ("", "."):
                links += 1
                node = self._follow(node, part, links)
        return node

    def _check(self, node: Any, name: str) -> None:
        if not hasattr(node, "is_virtual"):
            raise ValueError(f"{self._path}: {name} is neither a data set nor a group")
        if node.is_virtual or node.external:
            raise ValueError(
                f"{self._path}: {name} keeps its data in other files, which are not read; copy the "
                "data into this file, for example with h5repack"
            )
        if node.dtype.itemsize * (node.size or 0) > self._most:
            raise ValueError(
                f"{self._path}: {name} claims {node.dtype} {node.shape}, far more than the file "
                "holds; it is damaged"
            )
