"""Check that a zip archive, such as a checkpoint, is whole."""

from __future__ import annotations

import zipfile
from pathlib import Path


def damage(path: str | Path) -> str | None:
    """Tell what is wrong with a checkpoint file; None when all its bytes are as written."""
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except FileNotFoundError:
        return "it does not exist"
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return f"it is cut off or no checkpoint ({error})"
    return None if broken is None else f"its part {broken} is damaged"
