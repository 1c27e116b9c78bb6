"""What an exception says, in one line."""

from __future__ import annotations

import re


def first_line(error: Exception) -> str:
    """What an error says, without the pages that some add, and torch's advice to run the file.

    Of torch's refusals that is the class or function which the pickle asked for.
    """
    text = str(error) or repr(error)
    refused = re.search(r"[Uu]nsupported (?:(?:global: )?GLOBAL \S+|operand \d+|class \S+)", text)
    return refused[0] if refused else text.splitlines()[0].partition(" In PyTorch 2.6")[0]
