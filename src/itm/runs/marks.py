"""Find the marks of a Markdown page that ask for tables and figures of runs."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

OPENING = r"<!-- (table|figure): (\S+) (\S[^\n]*?) -->\n"
MARK = re.compile(rf"{OPENING}(.*?)<!-- /\1 -->", re.S)
# What may have been meant as a mark, whatever its blanks and letters.
MEANT = re.compile(r"<!--\s*(?:table|figure)\s*(?::|runs\b|differences\b)[^\n]*", re.I)
# A mark of another program, such as benchmarks/tables.py: one word.
OTHER = re.compile(r"<!-- table: (?!(?i:runs|differences) )\S+ -->")
# Blocks between fences, and code in a line: there, a mark is an example.
CODE = re.compile(
    r"^ {0,3}(?:(`{3,})[^`\n]*|(~{3,})[^\n]*)\n.*?(?:^ {0,3}(?:\1|\2)[`~]*[ \t]*$|\Z)"
    r"|(?<!`)(`+)(?!`)[^\n]*?(?<!`)\3(?!`)",
    re.S | re.M,
)
OPTIONS = {"runs": ("by", "metrics"), "differences": ("by", "within")}  # of tables
OF_FIGURES = ("by", "metrics", "out")


class Mark(NamedTuple):
    """What a page asks for.

    Attributes:
        what: "table" or "figure".
        kind: "runs" or "differences", or the setting on the horizontal axis of a figure.
        options: by, within, metrics, out -> comma-separated value.
        patterns: of run folders.
        place: begin and end of what is between the marks.
    """

    what: str
    kind: str
    options: dict[str, str]
    patterns: list[str]
    place: tuple[int, int]

    def names(self, option: str) -> list[str]:
        """Split the value of an option; [] if it is not given."""
        return [name for name in self.options.get(option, "").split(",") if name]


def find_marks(page: str) -> list[Mark]:
    """Find all marks of a page; those in code, and those of other programs, are left out.

    Raises:
        ValueError: a mark is not closed or not written as it must be, or an option in it is wrong.
    """
    text = CODE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), page)
    openings = {found.start() for found in re.finditer(OPENING, text)}
    for found in MEANT.finditer(text):
        if found.start() not in openings and not OTHER.match(found[0]):
            line = text.count("\n", 0, found.start()) + 1
            raise ValueError(
                f"line {line}: {found[0]!r} is not a mark: expected '<!-- table: runs PATTERN -->' "
                "('differences' instead of 'runs', or 'figure: SETTING out=FILE'), with these "
                "blanks, and nothing behind it in its line"
            )
    marks = [*MARK.finditer(text)]
    if len(marks) != len(openings):
        raise ValueError("every mark of a table or figure needs its <!-- /table --> or /figure")
    return [_parse(found) for found in marks]


def _parse(found: re.Match[str]) -> Mark:
    what, kind, text = found[1], found[2], found[3]
    if what == "table" and kind not in OPTIONS:
        raise ValueError(f"table: {kind}: expected 'runs' or 'differences'")
    known = OPTIONS[kind] if what == "table" else OF_FIGURES
    try:
        words = shlex.split(text)
    except ValueError as error:  # a quotation mark without its partner
        raise ValueError(f"{what}: {kind} {text}: {error}") from error
    options: dict[str, str] = {}
    for name, value in (word.split("=", 1) for word in words if "=" in word):
        if name not in known:
            raise ValueError(f"{name}= in a mark: {what}: {kind} takes {', '.join(known)}")
        if name in options:
            raise ValueError(f"{name}= is given twice in a mark: {what}: {kind} {text}")
        options[name] = value
    patterns = [word for word in words if "=" not in word]
    for word in [*options.values(), *patterns]:
        if not word or word != word.strip(","):
            raise ValueError(
                f"{what}: {kind} {text}: expected names with commas and without blanks, such as "
                f"by=model,loss; {word!r} begins or ends with a comma, or is empty"
            )
    if not patterns:
        raise ValueError(f"{what}: {kind} {text}: give patterns of run folders, such as runs/*")
    return Mark(what, kind, options, patterns, found.span(4))
