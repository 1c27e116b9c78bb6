"""Match pictures to the names that captions, lists and feature files give them."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath


class Names:
    """Find a picture by the other forms that its name takes in files.

    A name is looked up as it is, then without folder and ending (`images/a.jpg` as `a`), then by
    the number at its end (`COCO_val2014_000000391895.jpg` as 391895). A form that several pictures
    share finds none of them.

    Args:
        names: the names to find.
    """

    def __init__(self, names: Iterable[str]):
        self._exact = {name: name for name in names}
        self._stem = _unique((stem(name), name) for name in self._exact)
        self._number = _unique((number(name), name) for name in self._exact)

    def find(self, other: str) -> str | None:
        """Find the name that `other` means, or None."""
        other = str(other)
        for table, key in (
            (self._exact, other),
            (self._stem, stem(other)),
            (self._number, number(other)),
        ):
            if key is not None and key in table:
                return table[key]
        return None


def stem(name: str) -> str:
    """Strip a name of its folder and of the ending of a file."""
    return re.sub(
        r"\.(jpe?g|png|gif|bmp|webp|tiff?|npy|npz)$", "", PurePosixPath(name).name, flags=re.I
    )


def number(name: str) -> str | None:
    """Read the number that a name ends with, without leading zeros, or None."""
    found = re.search(r"(\d+)$", stem(name))
    return None if found is None else str(int(found.group(1)))


def _unique(pairs: Iterable[tuple[str | None, str]]) -> dict[str, str]:
    table: dict[str, str] = {}
    twice = set()
    for key, name in pairs:
        if key in table:
            twice.add(key)
        if key is not None:
            table[key] = name
    return {key: name for key, name in table.items() if key not in twice}
