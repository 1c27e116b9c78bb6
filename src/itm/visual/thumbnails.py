"""Small pictures that lie inside a page, as data URIs."""

from __future__ import annotations

import io
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from itm.data.pictures import FORMATS, Pictures, open_upright

if TYPE_CHECKING:
    from PIL.Image import Image


class Thumbnail(NamedTuple):
    """What the macro `picture` shows: a data URI, and the text that stands for it."""

    source: str
    alt: str


def thumbnail(source: str | Path | Image, size: int = 320, alt: str = "") -> Thumbnail:
    """Shrink a picture to at most `size` pixels in width and height.

    Args:
        source: a picture file, or a `PIL.Image.Image`.
        size: of the longer side; SVG keeps its size, and so does any file where Pillow is missing.
        alt: text in place of the picture; the file's name by default.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture.
    """
    if not isinstance(source, str | Path):
        return _jpeg(source, size, alt)
    path = Path(source)
    kind, alt = FORMATS.get(path.suffix.lower()), alt or path.name
    if kind is None:
        raise ValueError(f"{path} is not a picture; expected one of {', '.join(FORMATS)}")
    if kind != "image/svg+xml":
        try:
            return _jpeg(open_upright(path), size, alt)
        except ImportError:  # no Pillow: the whole file
            pass
    return _inline(path.read_bytes(), kind, alt)


def thumbnail_of(pictures: Pictures, name: str, size: int = 320) -> Thumbnail | None:
    """The thumbnail of an image of a split; None where it has no picture."""
    try:
        source = pictures.find(name, width=size)
    except ImportError:  # a page without pictures, where Pillow is missing
        return None
    return None if source is None else thumbnail(source, size, alt=name)


def _jpeg(picture: Image, size: int, alt: str) -> Thumbnail:
    small = picture.convert("RGB")
    small.thumbnail((size, size))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return _inline(buffer.getvalue(), "image/jpeg", alt)


def _inline(content: bytes, kind: str, alt: str) -> Thumbnail:
    return Thumbnail(f"data:{kind};base64,{b64encode(content).decode('ascii')}", alt)
