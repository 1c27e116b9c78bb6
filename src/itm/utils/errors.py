"""Shorten what an exception says to one line."""

from __future__ import annotations

import re


def first_line(error: BaseException) -> str:
    """Return the first line of an error; of a `KeyError`, which is a bare name, with its class.

    A refusal by torch is shortened to the class or function that the pickle asks for, because
    torch's advice is to run the code of the file.
    """
    text = repr(error) if isinstance(error, KeyError) else str(error).strip() or repr(error)
    refused = re.search(r"[Uu]nsupported (?:(?:global: )?GLOBAL \S+|operand \d+|class \S+)", text)
    return refused[0] if refused else text.splitlines()[0].partition(" In PyTorch 2.6")[0][:1000]
