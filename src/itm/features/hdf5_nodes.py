"""Read the nodes of an HDF5 file, but no other file that it refers to.

A file may name other files: by external links, by raw data in external storage, or by virtual data
sets. A file from elsewhere could thus copy private files into features. All three are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from itm.utils.archive import SMALL

MOST_LINKS = 16  # links that one name may follow
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
        return node

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Return the attributes of the group."""
        attributes: Mapping[str, Any] = self._group.attrs
        return attributes

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
        most = max(SMALL, LARGER * self._path.stat().st_size)
        if node.dtype.itemsize * (node.size or 0) > most:
            raise ValueError(
                f"{self._path}: {name} claims {node.dtype} {node.shape}, far more than the file "
                "holds; it is damaged"
            )
