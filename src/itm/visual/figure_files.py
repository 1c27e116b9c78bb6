"""Figures as files."""

import warnings
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure


def save(figure: Figure, path: str | Path | BytesIO, kind: str | None = None) -> None:
    """Write a figure; characters that the font lacks show as boxes, without a warning.

    Args:
        figure: to write.
        path: of the file, or an open one.
        kind: format such as "png"; the ending of `path` by default.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Glyph .* missing")
        figure.savefig(path, dpi=110, format=kind)
