"""Which pictures are for training, which for validation and test; and names that mean the same."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from itm.data.layout import read_captions

NAMES = ("train", "dev", "test")


class Names:
    """Finds a picture's name under the other forms it has in files.

    A name is found as it is, without folder and ending (`images/a.jpg` as `a`), and by the number
    at its end (`COCO_val2014_000000391895.jpg` as 391895), where that is no other picture's too.

    Args:
        names: the names to find.
    """

    def __init__(self, names: Iterable[str]):
        self._exact = {name: name for name in names}
        self._stem = _unique((stem(name), name) for name in self._exact)
        self._number = _unique((number(name), name) for name in self._exact)

    def find(self, other: str) -> str | None:
        """The name that `other` means, or None."""
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
    """A name without folder and the ending of a file."""
    return re.sub(
        r"\.(jpe?g|png|gif|bmp|webp|tiff?|npy|npz)$", "", PurePosixPath(name).name, flags=re.I
    )


def number(name: str) -> str | None:
    """The number that a name ends with, without leading zeros, or None."""
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


def partition(
    names: Sequence[str],
    lists: Mapping[str, str | Path | None] | None = None,
    known: Mapping[str, str] | None = None,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> dict[str, list[str]]:
    """Pictures of every split, in the order of `names` or of the lists.

    Args:
        names: all pictures.
        lists: split -> text file with one picture a line; None among them are left out.
        known: picture -> split, used when there are no lists.
        fractions: shares of train, dev and test, used when neither is there.
        seed: of the draw; the same names, fractions and seed give the same splits.

    Raises:
        ValueError: fractions that are none, a split that stays empty, a picture in two lists.
    """
    given = {split: path for split, path in (lists or {}).items() if path}
    if given:
        return _from_lists(names, given)
    if known:
        splits: dict[str, list[str]] = {}
        for name in names:
            if name in known:
                splits.setdefault(known[name], []).append(name)
        return splits
    return _drawn(names, fractions, seed)


def _from_lists(names: Sequence[str], lists: Mapping[str, str | Path]) -> dict[str, list[str]]:
    find, owner = Names(names), dict[str, str]()
    splits: dict[str, list[str]] = {}
    for split, path in lists.items():
        found = [name for line in read_captions(Path(path)) if (name := find.find(line))]
        if not found:
            raise ValueError(
                f"no picture of {path} is among the {len(names)} pictures with captions"
            )
        for name in found:
            if name in owner:
                raise ValueError(f"{name} is in the lists of both {owner[name]} and {split}")
            owner[name] = split
        splits[split] = found
    return splits


def _drawn(names: Sequence[str], fractions: Sequence[float], seed: int) -> dict[str, list[str]]:
    if len(fractions) != len(NAMES) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions={list(fractions)}: expected shares of {NAMES} that sum to 1")
    ordered = sorted(names)
    sizes = [0, *(max(round(f * len(names)), 1 if f else 0) for f in fractions[1:])]
    sizes[0] = len(names) - sum(sizes)
    if sizes[0] < 1:
        raise ValueError(f"{len(names)} pictures are too few for the splits {list(fractions)}")
    order = np.random.default_rng(seed).permutation(len(ordered))
    bounds = np.cumsum([0, *sizes])
    return {
        split: [ordered[i] for i in sorted(order[a:b])]
        for split, a, b in zip(NAMES, bounds, bounds[1:], strict=False)
        if b > a
    }
