"""Collect the captions of a file, and count what is left out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from itm.data.caption_file import is_blank
from itm.data.names import ENDINGS
from itm.utils.checks import check_text

NUMBER = re.compile(r"#\d+$")  # Flickr: name.jpg#0
SCIENTIFIC = re.compile(r"\d([.,]\d+)?E\+\d+", re.I)  # 1.23457E+11, as Excel shows 123456789012
KNOWN = re.compile(r"train|dev|test(all|[ab])?")
SPLITS = {
    "restval": "train", "training": "train", "val": "dev", "valid": "dev", "validation": "dev",
    "development": "dev", "testing": "test",
}  # names of other formats -> the layout's  # fmt: skip


@dataclass
class Sentences:
    """The contents of a caption file.

    Attributes:
        captions: picture name -> its captions, in the order of the file.
        splits: picture name -> split, if the format records it.
        empty: number of empty captions, which are left out.
        bare: pictures that the file lists without any caption.
    """

    captions: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    empty: int = 0
    bare: list[str] = field(default_factory=list)

    def add(self, name: str, caption: str, split: str = "") -> None:
        """Add a caption; line breaks and runs of blanks become one blank.

        Raises:
            ValueError: the name is empty or has a line break or is a rounded number, a text is not
                valid, or the picture is in two splits.
        """
        name, caption = name.strip(), " ".join(caption.split())
        split = (split or "").strip().lower()
        split = SPLITS.get(split, split)
        if split and not KNOWN.fullmatch(split):
            raise ValueError(
                f"{name} is in the split {split!r}; expected train, {', '.join(SPLITS)}, dev, test "
                "or testall"
            )
        if not name:
            raise ValueError(f"the caption {caption[:60]!r} has no picture")
        check_text(name, "the name of a picture")
        check_text(caption, f"a caption of {name}")
        if "\n" in name:
            raise ValueError(f"the name {name!r} of a picture holds a line break; rename it")
        if SCIENTIFIC.fullmatch(name):
            raise ValueError(
                f"the picture {name!r} is a number that a spreadsheet has rounded; write the "
                "column as text, so that all digits are kept"
            )
        if split and self.splits.setdefault(name, split) != split:
            raise ValueError(f"{name} is in the splits {self.splits[name]} and {split}")
        if not is_blank(caption):  # also what shows nothing, such as a lone U+200B
            self.captions.setdefault(name, []).append(caption)
        else:
            self.empty += 1

    def report(self) -> None:
        """Print what is left out."""
        if self.empty:
            print(f"left out: {self.empty} empty captions")
        if self.bare:
            print(
                f"left out: {len(self.bare)} pictures without captions, such as "
                f"{', '.join(self.bare[:3])}"
            )


def strip_numbers(names: Sequence[str]) -> list[str]:
    """Strip the names of all rows of the numbers of captions, as in Flickr's `a.jpg#0`.

    Without an ending before it, `#1` may belong to the name: `sky#1` beside `sky`. It is a number
    if all names have one, and each is counted from 0.
    """
    plain = [NUMBER.sub("", name) for name in names]
    first = {name.removesuffix("#0") for name in names if name.endswith("#0")}
    counted = all(base != name and base in first for base, name in zip(plain, names, strict=True))
    return [
        base if counted or ENDINGS.search(base) else name
        for base, name in zip(plain, names, strict=True)
    ]
