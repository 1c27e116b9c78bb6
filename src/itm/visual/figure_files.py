"""Write figures to files."""

import warnings
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure

from itm.runs.outputs import maker
from itm.utils.files import replacing

METADATA = {"png": "Software", "pdf": "Creator", "svg": "Creator"}  # field for the maker


def save(
    figure: Figure, path: str | Path | BytesIO, kind: str | None = None, command: str = ""
) -> None:
    """Write a figure; characters missing in the font show as boxes, without a warning.

    Args:
        figure: figure to write.
        path: path of the file, or an open file.
        kind: format such as "png"; None = by the ending of `path`.
        command: command to name in the file, such as "itm.explain".
    """
    if not isinstance(path, BytesIO):
        kind = kind or Path(path).suffix.lstrip(".").lower() or "png"
    about = {METADATA[kind]: maker(command)} if command and kind in METADATA else None
    drawn = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Glyph .* missing")
        figure.savefig(drawn, dpi=110, format=kind, metadata=about)
    if isinstance(path, BytesIO):
        path.write(drawn.getvalue())
    else:
        with replacing(path) as file:
            file.write(drawn.getvalue())
