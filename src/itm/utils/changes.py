"""Notice that a file was changed in place while it is in use."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

State = tuple[int, int, int, int]  # device, inode, bytes, time of the last write


def state_of(path: str | Path) -> State | None:
    """Return what tells one content of a file from another; None if it is not a regular file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def check_unchanged(files: Mapping[Any, State | None]) -> None:
    """Compare files with their states before.

    A file that was removed or replaced by another one passes: whoever has opened it still reads
    the old content as a whole.

    Args:
        files: path -> what `state_of` returned.

    Raises:
        ValueError: a file was written, cut or extended in place.
    """
    for path, before in files.items():
        now = state_of(path)
        if before is None or now is None or now == before or now[:2] != before[:2]:
            continue
        raise ValueError(
            f"{path} was changed while it was in use: it had {before[2]} bytes, now it has "
            f"{now[2]}, or was written again; leave it alone meanwhile, and start again"
        )
