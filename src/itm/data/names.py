"""Match the names that captions, lists, boxes and feature files give to the same pictures.

This is the only rule for names: every reader that joins two files uses it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from itm.data.places import Place, common, contradict, ends_alike, folders, last_part, splits_of
from itm.utils.log_files import say

FEW = 0.05  # share of names that two files may both lose without an error
ENDINGS = re.compile(
    r"(\.(jpe?g|jfif|png|gif|bmp|webp|tiff?|avif|npy|npz|pth?|pkl|json|txt|xml))+$", re.I
)

MOST_DIGITS = 18
NO_NUMBER = re.compile(r"[0-9][.,]$|^-$|^[0-9]([.,][0-9]+)?E[+-]$", re.I)  # 12.5, -12, 1.2E+11
HASH = "(?=.*[a-f])[0-9a-f]+"
DATED = re.compile(r"^[\W_\d]*\d[\W_]*$|(?<!\d)\d{4}-\d{1,2}-$")  # 2007_000027 and 2020-01-03


class Names:
    """Find a picture by the forms that its name takes in other files.

    1. The exact name.
    2. The name without folder and ending: `images/a.jpg` is `a`.
    3. The number at its end, if the rest of both names agrees (`img_3` is `img_003`) or if one
       name is only a number (`COCO_val2014_000000391895.jpg` is 391895).

    The first form that finds something decides. `val/a.jpg` is never
    `train/a.jpg`, and a name in a folder of other names is not found in this one. Any other folders
    are taken for two places of the same pictures, see `report`.

    Args:
        names: the names to find.
        folder: the folder of these files, if they are files; the names are relative to it.
        others_folder: the folder of the other files, if those are files.

    Raises:
        ValueError: two names look the same, see `check_twins`.
    """

    def __init__(
        self,
        names: Iterable[str],
        folder: str | Path | None = None,
        others_folder: str | Path | None = None,
    ):
        self._exact = dict.fromkeys(names)
        check_twins(self._exact)
        self._stem: dict[str, list[str]] = defaultdict(list)
        self._number: dict[int, list[str]] = defaultdict(list)
        for name in self._exact:
            self._stem[stem(name)].append(name)
            if (number := _number(name)) is not None:
                self._number[number[1]].append(name)
        self._found: dict[str, tuple[int, str]] = {}  # name -> form and other name that found it
        self.displaced: list[str] = []  # others that lost their name to a nearer form
        self._root = common([folders(name) for name in self._exact])
        self._inner = {folders(name)[self._root :] for name in self._exact} - {()}
        self._crossed: dict[str, str] = {}  # other -> name in another folder
        self._apart: dict[str, None] = {}  # names of another folder than that of the files
        self._holds = folder is not None  # the names are the files
        given = folder if folder is not None else others_folder
        self._place = None if given is None else Place(given, () if self._holds else self._exact)

    def find(self, other: str | int) -> str | None:
        """Find the name that `other` means, or None.

        Raises:
            ValueError: `other` could mean two names.
        """
        return self._look_up(str(other))[1]

    def claim(self, other: str | int) -> str | None:
        """Find a name and reserve it for `other`; an exact name takes it from a similar one.

        Returns:
            The name, or None if there is none or a nearer form of it has reserved it.

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
            self.displaced.append(before[1])
        self._found[name] = form, str(other)
        return name

    def mention(self, others: Iterable[str]) -> None:
        """Learn which folders the others name, before any of them is looked up."""
        if self._place is not None and self._holds:
            self._place.mention(others)

    def match(self, others: Iterable[str]) -> dict[str, str]:
        """Reserve names for several others: other -> name; others without a name are left out.

        Raises:
            ValueError: as `claim`, or two others look the same.
        """
        others = list(others)
        check_twins(others)
        self.mention(others)
        claimed = [(other, self.claim(other)) for other in others]
        return {o: n for o, n in claimed if n is not None and self._found[n][1] == o}

    def _look_up(self, other: str) -> tuple[int, str | None]:
        if other in self._exact:
            return 0, other
        for form, found in (
            (1, self._stem.get(stem(other), [])),
            (2, self._by_number(other)),
        ):
            own = folders(other)
            found = [name for name in found if not self._is_elsewhere(other, name)]
            if len(found) > 1 and own:
                found = [name for name in found if self._same_folder(name, own)] or found
            if len(found) > 1:
                raise ValueError(
                    f"{other!r} could be {found[0]!r} or {found[1]!r}; give the full name"
                )
            if found and self._may_differ(other, found[0], form):
                return form, found[0]
        return 3, None

    def _is_elsewhere(self, other: str, name: str) -> bool:
        """Whether one name is a file, and the other names another folder than that of the files."""
        held, mentioned = (name, other) if self._holds else (other, name)
        if self._place is None or not self._place.is_other(held, mentioned):
            return False
        self._apart[mentioned] = None
        return True

    def _same_folder(self, name: str, own: tuple[str, ...]) -> bool:
        inner = folders(name)[self._root :]
        return bool(inner) and ends_alike(inner, own)

    def _may_differ(self, other: str, name: str, form: int) -> bool:
        """Whether the folders of two names may be two places of one picture."""
        ours, theirs = folders(name), folders(other)
        if form == 2 and contradict(
            splits_of((*ours, stem(name))), splits_of((*theirs, stem(other)))
        ):  # COCO_train2014_000000000009.jpg is not val2014/9
            return False
        if ends_alike(ours, theirs):
            held, mentioned = (name, other) if self._holds else (other, name)
            if self._place is not None and self._place.differs(held, mentioned):
                self._crossed[other] = name
            return True
        inner = ours[self._root :]
        if not ends_alike(inner, theirs) and any(ends_alike(f, theirs) for f in self._inner):
            return False  # the folder of other names
        if contradict(splits_of(ours), splits_of(theirs)):
            return False
        self._crossed[other] = name
        return True

    def report(self) -> None:
        """Print how many names were found in another folder, and how many were not."""
        if self._crossed:
            other, name = next(iter(self._crossed.items()))
            say(
                f"{len(self._crossed)} names were joined although their folders differ, such as "
                f"{other!r} with {name!r}"
            )
        if self._apart and self._place is not None:
            say(
                f"{len(self._apart)} names were not joined with files of {self._place.folder}, "
                f"since they name another folder, such as {next(iter(self._apart))!r}"
            )

    def _by_number(self, other: str) -> list[str]:
        own = _number(other)
        if own is None:
            return []
        rest, value = own
        found = []
        for name in self._number.get(value, []):
            known = _number(name)
            assert known is not None
            if rest == known[0] or ("" in (rest, known[0]) and not DATED.search(rest + known[0])):
                found.append(name)
        return found


def stem(name: str) -> str:
    """Strip a name of its folder and of the endings of files."""
    last = last_part(name)
    return ENDINGS.sub("", last) or last


def _number(name: str) -> tuple[str, int] | None:
    """Divide a name into the text before its last number, and that number.

    Tables write numbers as decimals, too: 391895.0 is 391895, but 12.5 and 1.2E+11 end in
    no number. Hashes and other mixtures of letters and digits are not numbered either.
    """
    plain = re.sub(r"^([0-9]+)\.0+$", r"\1", stem(name))
    found = re.search(r"^(.*?)([0-9]+)$", plain, re.S)
    if found is None or len(found[2]) > MOST_DIGITS or NO_NUMBER.search(found[1]):
        return None
    last = re.split(r"[^0-9A-Za-z]", plain)[-1]
    if re.search(r"[0-9][A-Za-z]", last) or (len(last) >= 8 and re.fullmatch(HASH, last, re.I)):
        return None
    return found[1], int(found[2])


def is_numbered(name: str) -> bool:
    """Tell whether a number alone can mean this name: 17.jpg, but no date and no hash."""
    found = _number(name)
    return found is not None and not DATED.search(found[0])


def check_twins(names: Iterable[str]) -> None:
    """Check that no two names look the same, as `é` in one character and in two.

    Raises:
        ValueError: two names are equal in Unicode's composed form, NFC.
    """
    first: dict[str, str] = {}
    for name in names:
        if name.isascii():
            continue
        before = first.setdefault(unicodedata.normalize("NFC", name), name)
        if before != name:
            raise ValueError(
                f"two names look the same, {ascii(before)} and {ascii(name)}: they write a letter "
                "with its accent in one character (NFC) and in two (NFD); rename one, or write all "
                "in NFC, as unicodedata.normalize('NFC', name) does"
            )


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
        say(f"left out: {text}")
