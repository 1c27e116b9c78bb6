"""Shorten what an exception says to one line."""

from __future__ import annotations

import re


def first_line(error: Exception) -> str:
    """Return the first line of an error, without torch's advice to run a file's code after all.

    Of torch's refusals it is the class or function that the pickle asks for.
    """
    text = str(error) or repr(error)
    refused = re.search(r"[Uu]nsupported (?:(?:global: )?GLOBAL \S+|operand \d+|class \S+)", text)
    return refused[0] if refused else text.splitlines()[0].partition(" In PyTorch 2.6")[0]
