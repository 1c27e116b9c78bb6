"""Compare the folders of two names: may they be two places of one picture?"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from os.path import abspath
from pathlib import Path

SPLITS = {
    "train": "train", "trn": "train", "trainset": "train", "training": "train", "val": "val",
    "valid": "val", "valset": "val", "validation": "val", "dev": "val", "devset": "val",
    "test": "test", "tst": "test", "testset": "test", "testing": "test",
}  # fmt: skip

Parts = tuple[str, ...]


class Place:
    """Compare the folder that holds the files of one side with the folders that the other names.

    Files below `images=hol/2019` have names without 2019. If the captions name `2019/1.jpg` and
    `2020/2.jpg`, the first belongs to this folder, so that the second belongs to another one.

    Args:
        folder: the folder that holds the files.
        mentioned: the names of the other side.
    """

    def __init__(self, folder: str | Path, mentioned: Iterable[str] = ()):
        self.folder = str(folder)
        self._parts = folders(abspath(Path(folder).expanduser()) + "/")
        self._nearest: dict[Parts, int] = {}  # end of a folder -> most parts shared before it
        self.mention(mentioned)

    def mention(self, names: Iterable[str]) -> None:
        """Add names of the other side; those that fit this folder best are taken for its own."""
        for parts in {folders(name) for name in names}:
            for at in range(1, len(parts) + 1):
                near = _shared_end(self._parts, parts[:at])
                self._nearest[parts[at:]] = max(near, self._nearest.get(parts[at:], 0))

    def is_other(self, held: str, mentioned: str) -> bool:
        """Tell whether a name of the other side means another folder than the file `held` is in.

        It does if other names fit this folder better, or if it names another split than this folder
        and than the file itself, as COCO_val2014_000000000042.jpg does.
        """
        rest = self._beyond(held, mentioned)
        near = _shared_end(self._parts, rest)
        if near == len(rest):
            return False
        if near < self._nearest.get(folders(held), 0):
            return True
        if splits_of((last_part(held),)) & splits_of((rest[-near - 1],)):
            return False
        return contradict(
            splits_of(self._parts[::-1][near : near + 1]), splits_of((rest[-near - 1],))
        )

    def differs(self, held: str, mentioned: str) -> bool:
        """Tell whether a name of the other side has a folder that is not called as this one."""
        rest = self._beyond(held, mentioned)
        return bool(rest) and not _shared_end(self._parts, rest)

    def _beyond(self, held: str, mentioned: str) -> Parts:
        """Return the folders of `mentioned` above those of `held`; none if these differ."""
        own, parts = folders(held), folders(mentioned)
        at = len(parts) - len(own)
        return parts[:at] if at > 0 and parts[at:] == own else ()


def _shared_end(a: Parts, b: Parts) -> int:
    """Count the equal parts at the ends of two folders."""
    pairs = zip(reversed(a), reversed(b), strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def last_part(name: str) -> str:
    """Return the name of the file without its folder."""
    return re.split(r"[\\/]", unicodedata.normalize("NFC", name.strip()))[-1]


def folders(name: str) -> Parts:
    """Return the folders that a name begins with."""
    parts = re.split(r"[\\/]", unicodedata.normalize("NFC", name.strip()))[:-1]
    return tuple(part for part in parts if part not in ("", "."))


def common(every: Sequence[Parts]) -> int:
    """Count the folders that all names begin with."""
    first, last = min(every, default=()), max(every, default=())
    pairs = zip(first, last, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(last)))


def ends_alike(a: Parts, b: Parts) -> bool:
    """Tell whether one of two folders is the end of the other."""
    shared = min(len(a), len(b))
    return not shared or a[-shared:] == b[-shared:]


def splits_of(parts: Iterable[str]) -> set[str]:
    """Find the splits that parts of a name name: train2014 and images_train are train."""
    words = (word for part in parts for word in re.split(r"[\W_\d]+", part.lower()))
    return {SPLITS[word] for word in words if word in SPLITS}


def contradict(ours: set[str], theirs: set[str]) -> bool:
    """Tell whether two names name splits, and no common one."""
    return bool(ours and theirs and not ours & theirs)
