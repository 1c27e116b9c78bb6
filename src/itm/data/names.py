"""Match the names that captions, lists, boxes and feature files give to the same pictures.

This is the only rule for names: every reader that joins two files uses it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

FEW = 0.05  # share of names that two files may both lose without an error
ENDINGS = re.compile(
    r"(\.(jpe?g|jfif|png|gif|bmp|webp|tiff?|avif|npy|npz|pth?|pkl|json|txt|xml))+$", re.I
)

MOST_DIGITS = 18
HASH = "(?=.*[a-f])[0-9a-f]+"


class Names:
    """Find a picture by the forms that its name takes in other files.

    1. The exact name.
    2. The name without folder and ending: `images/a.jpg` is `a`.
    3. The number at its end, if the rest of both names agrees (`img_3` is `img_003`) or if one
       name is only a number (`COCO_val2014_000000391895.jpg` is 391895).

    The first form that finds something decides.

    Args:
        names: the names to find.
    """

    def __init__(self, names: Iterable[str]):
        self._exact = dict.fromkeys(names)
        self._stem: dict[str, list[str]] = defaultdict(list)
        self._number: dict[int, list[str]] = defaultdict(list)
        for name in self._exact:
            self._stem[stem(name)].append(name)
            if (number := _number(name)) is not None:
                self._number[number[1]].append(name)
        self._found: dict[str, tuple[int, str]] = {}  # name -> form and other name that found it

    def find(self, other: str | int) -> str | None:
        """Find the name that `other` means, or None.

        Raises:
            ValueError: `other` could mean two names.
        """
        return self._look_up(str(other))[1]

    def claim(self, other: str | int) -> str | None:
        """Find a name and reserve it for `other`; an exact name takes it from a similar one.

        Returns:
            The name, or None if there is none or an earlier form of it has reserved it.

        Raises:
            ValueError: `other` could mean two names, or two others mean the same name.
        """
        form, name = self._look_up(str(other))
        if name is None:
            return None
        before = self._found.get(name)
        if before is not None and before[1] != str(other):
            if before[0] < form:
                return None
            if before[0] == form:
                raise ValueError(
                    f"{before[1]!r} and {str(other)!r} both seem to be {name!r}; rename one of them"
                )
        self._found[name] = form, str(other)
        return name

    def match(self, others: Iterable[str]) -> dict[str, str]:
        """Reserve names for several others: other -> name; others without a name are left out."""
        claimed = [(other, self.claim(other)) for other in others]
        return {o: n for o, n in claimed if n is not None and self._found[n][1] == o}

    def _look_up(self, other: str) -> tuple[int, str | None]:
        if other in self._exact:
            return 0, other
        for form, found in (
            (1, self._stem.get(stem(other), [])),
            (2, self._by_number(other)),
        ):
            if len(found) > 1:
                raise ValueError(
                    f"{other!r} could be {found[0]!r} or {found[1]!r}; give the full name"
                )
            if found:
                return form, found[0]
        return 3, None

    def _by_number(self, other: str) -> list[str]:
        own = _number(other)
        if own is None:
            return []
        rest, value = own
        found = []
        for name in self._number.get(value, []):
            known = _number(name)
            assert known is not None
            if rest == known[0] or "" in (rest, known[0]):
                found.append(name)
        return found


def stem(name: str) -> str:
    """Strip a name of its folder and of the endings of files."""
    last = re.split(r"[\\/]", unicodedata.normalize("NFC", name.strip()))[-1]
    return ENDINGS.sub("", last) or last


def _number(name: str) -> tuple[str, int] | None:
    """Divide a name into the text before its last number, and that number.

    Tables write numbers as decimals, too: 391895.0 is 391895, but 12.5 ends in no number. Hashes
    and other mixtures of letters and digits are not numbered either.
    """
    plain = re.sub(r"^([0-9]+)\.0+$", r"\1", stem(name))
    found = re.search(r"^(.*?)([0-9]+)$", plain, re.S)
    if found is None or len(found[2]) > MOST_DIGITS or re.search(r"[0-9][.,]$|^-$", found[1]):
        return None
    last = re.split(r"[^0-9A-Za-z]", plain)[-1]
    if re.search(r"[0-9][A-Za-z]", last) or (len(last) >= 8 and re.fullmatch(HASH, last, re.I)):
        return None
    return found[1], int(found[2])


def report_lost(*sides: tuple[str, Sequence[str], int], partial: bool = False) -> None:
    """Print the names in two files that have no partner in the other file.

    A file may cover a part of the other: the captions of a corpus with some of its pictures. Two
    files that both lose names usually do not belong together.

    Args:
        sides: for each file what its names are, the names without a partner, and how many it has.
        partial: accept any number.

    Raises:
        ValueError: each file loses more than one name and more than `FEW` of all.
    """
    texts = [
        f"{len(lost)} {what}, such as {', '.join(lost[:3])}" for what, lost, _ in sides if lost
    ]
    if not partial and all(len(lost) > max(1, FEW * total) for _, lost, total in sides):
        raise ValueError(
            f"the files do not belong together: {'; '.join(texts)}. Correct the names, or set "
            "partial=true to continue with the others"
        )
    for text in texts:
        print(f"left out: {text}")
