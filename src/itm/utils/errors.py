"""Errors of writers whose place is taken or in use; the first line of an error."""

from __future__ import annotations

import re


class TakenError(FileExistsError, ValueError):
    """A file or folder holds something that must not be replaced; nothing was changed.

    Every command and function that writes raises it, and the message says how to go on. It is a
    `ValueError` as well, like the errors of other arguments.
    """


class InUseError(BlockingIOError, ValueError):
    """Another process is writing the same file or folder; nothing was changed."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error; of a `KeyError`, which is a bare name, with its class.

    A refusal by torch is shortened to the class or function that the pickle asks for, because
    torch's advice is to run the code of the file.
    """
    text = repr(error) if isinstance(error, KeyError) else str(error).strip() or repr(error)
    refused = re.search(r"[Uu]nsupported (?:(?:global: )?GLOBAL \S+|operand \d+|class \S+)", text)
    return refused[0] if refused else text.splitlines()[0].partition(" In PyTorch 2.6")[0][:1000]
