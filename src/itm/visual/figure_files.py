"""Write figures to files."""

import warnings
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure


def save(figure: Figure, path: str | Path | BytesIO, kind: str | None = None) -> None:
    """Write a figure; characters missing in the font show as boxes, without a warning.

    Args:
        figure: figure to write.
        path: path of the file, or an open file.
        kind: format such as "png"; None = by the ending of `path`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Glyph .* missing")
        figure.savefig(path, dpi=110, format=kind)
