"""End quietly if the reader of the output closes it, as in `itm | head`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_if_closed() -> Iterator[None]:
    """Write what the block prints; if nobody reads it, end the process with status 0.

    Raises:
        SystemExit: the reader closed the output.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more when it ends
        raise SystemExit(0) from None
