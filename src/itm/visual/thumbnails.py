"""Embed small pictures in a page as data URIs."""

from __future__ import annotations

import io
import sys
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from itm.data.pictures import FORMATS, Pictures
from itm.utils.picture_files import open_regular, read_picture

if TYPE_CHECKING:
    from PIL.Image import Image


class Thumbnail(NamedTuple):
    """Input of the macro `picture`: a data URI, and the alternative text."""

    source: str
    alt: str


def thumbnail(source: str | Path | Image, size: int = 320, alt: str = "") -> Thumbnail:
    """Shrink a picture to at most `size` pixels in width and height.

    Args:
        source: a picture file, or a `PIL.Image.Image`.
        size: length of the longer side. SVG files keep their size, and so do all files if Pillow is
            missing.
        alt: alternative text; by default the name of the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a picture.
    """
    if not isinstance(source, str | Path):
        return _jpeg(source, size, alt)
    path = Path(source)
    kind, alt = FORMATS.get(path.suffix.lower()), alt or path.name
    if kind is None:
        raise ValueError(f"{path} is not a picture; expected one of {', '.join(FORMATS)}")
    if kind != "image/svg+xml":
        try:
            return _jpeg(read_picture(path), size, alt)
        except ImportError:  # no Pillow: the whole file
            pass
    with open_regular(path) as file:
        return _inline(file.read(), kind, alt)


def thumbnail_of(pictures: Pictures, name: str, size: int = 320) -> Thumbnail | None:
    """Make the thumbnail of an image of a split; None if it has no picture.

    If the picture cannot be read, print why and return None, too.
    """
    try:
        source = pictures.find(name, width=size)
        return None if source is None else thumbnail(source, size, alt=name)
    except ImportError:  # without Pillow, the page has no pictures
        return None
    except (OSError, ValueError) as error:
        print(f"no picture of {name!r} on the page: {str(error)!r}", file=sys.stderr)
        return None


def _jpeg(picture: Image, size: int, alt: str) -> Thumbnail:
    small = picture.convert("RGB")
    small.thumbnail((size, size))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return _inline(buffer.getvalue(), "image/jpeg", alt)


def _inline(content: bytes, kind: str, alt: str) -> Thumbnail:
    return Thumbnail(f"data:{kind};base64,{b64encode(content).decode('ascii')}", alt)
