"""Escape text of any origin for terminals, Markdown, CSV, LaTeX and figures.

Captions, file names, options and error messages may hold any characters. HTML pages are escaped by
their templates, see `itm.visual.html`.
"""

from __future__ import annotations

import re
from typing import Any

JOINERS = "\u200c\u200d"  # join or separate letters in Persian, Hindi and in emojis
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "±": r"$\pm$",
}  # fmt: skip


def printable(text: Any) -> str:
    r"""Write a value on one line: white space becomes a blank, control characters become \ufffd.

    Examples:
        >>> printable("a\tdog\x1b[31m")
        'a dog�[31m'
    """
    return "".join(
        c
        if c.isprintable() or c in JOINERS
        else " "
        if c.isspace()
        else "\N{REPLACEMENT CHARACTER}"
        for c in str(text)
    )


def for_markdown(text: Any) -> str:
    r"""Escape what GitHub Markdown would read as markup; underscores inside words are not.

    Examples:
        >>> for_markdown("optimizer.weight_decay=1|*x*")
        'optimizer.weight_decay=1\\|\\*x\\*'
    """
    text = re.sub(r"([\\`*{}\[\]<>|#~&!$])", r"\\\1", printable(text))
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


def for_csv(value: Any) -> Any:
    """Put a quote before text that a spreadsheet would read as a formula.

    Examples:
        >>> for_csv("=1+1"), for_csv("-0.5"), for_csv(-0.5)
        ("'=1+1", '-0.5', -0.5)
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if re.match(r"\s*[=+\-@＝＋－＠]", text) and not _is_number(text) else text


def for_latex(text: Any) -> str:
    r"""Escape the characters that LaTeX treats as commands.

    Examples:
        >>> for_latex("loss_margin=50%")
        'loss\\_margin=50\\%'
    """
    return "".join(LATEX.get(c, c) for c in printable(text))


def for_figure(text: Any) -> str:
    r"""Escape a label for matplotlib: show dollar signs literally, and keep it in legends.

    Matplotlib omits labels that begin with an underscore from legends.

    Examples:
        >>> for_figure("_$x$")
        ' _\\$x\\$'
    """
    text = printable(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
