"""Read picture files safely, as a viewer shows them."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")  # of Pillow; none runs another program
MOST_PIXELS = 2**27  # half a gigabyte of RGBA; cameras of 100 megapixels stay below
TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")  # modes of Pillow


def picture_files(folder: str | Path, endings: Collection[str]) -> dict[str, Path]:
    """Find the files below a folder that have one of the endings, sorted by name.

    Links that lead out of the folder, pipes, devices and folders with such a name are left out and
    reported.

    Returns:
        Name relative to the folder -> file.
    """
    folder = Path(folder).expanduser()
    inside, found, odd = folder.resolve(), dict[str, Path](), []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in endings):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.resolve().is_relative_to(inside):
            found[name] = path
        else:
            odd.append(name)
    if odd:
        print(
            f"left out: {len(odd)} entries of {folder} that are not files inside of it (links "
            f"out of the folder, folders, pipes), such as {', '.join(odd[:3])}"
        )
    return found


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; a pipe or device is refused without waiting for it.

    Raises:
        OSError: the file cannot be opened.
        ValueError: not a regular file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError(f"{path} is not a regular file")
    return os.fdopen(handle, "rb")


def read_picture(path: str | Path, least: int | None = None) -> Image:
    """Read a picture file as the RGB pixels that a viewer shows, see `as_shown`.

    The content decides the format, not the name: `FORMATS` are read.

    Args:
        path: a regular file.
        least: JPEG files may be decoded at a smaller scale with at least so many pixels a side.

    Raises:
        FileNotFoundError: no such file.
        ImportError: Pillow is missing.
        ValueError: not a picture of `FORMATS`, damaged, or of more than `MOST_PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError  # late: Pillow is optional

    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise ValueError(_too_large(f"{opened.width} x {opened.height}"))
            if least is not None:
                opened.draft("RGB", (least, least))
            return as_shown(opened)
    except (FileNotFoundError, ImportError):
        raise
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not a picture that can be read; expected {', '.join(FORMATS)}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path} cannot be read: {_too_large('too many')}") from error
    except Exception as error:  # a damaged picture can raise anything
        raise ValueError(f"{path} cannot be read: {error or type(error).__name__}") from error


def _too_large(found: str) -> str:
    return f"{found} pixels, expected at most {MOST_PIXELS:,}; shrink the picture first"


def as_shown(picture: Image) -> Image:
    """Convert an opened picture to the RGB pixels that a viewer shows.

    The orientation tag and a colour profile are applied, 16 bits are scaled to 8, transparent
    pixels become white, and palettes and CMYK become RGB. An animation gives its first frame.

    Raises:
        ValueError: pixels of 32 bits, whose range the file does not state.
    """
    import numpy as np
    from PIL import Image, ImageOps  # late: Pillow is optional

    clear = picture.info.get("transparency")
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        values = np.asarray(upright)
        if upright.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"pixels of mode {upright.mode} from {values.min():g} to {values.max():g}; save "
                "the picture with 8 or 16 bits"
            )
        grey = (values / 257).round().astype(np.uint8)
        if isinstance(clear, int):  # the one grey value that is transparent
            grey[values == clear] = 255
        return Image.fromarray(grey).convert("RGB")
    if upright.mode not in TRANSPARENT and clear is None:
        return _in_srgb(upright)
    page = Image.new("RGBA", upright.size, "white")
    page.alpha_composite(upright.convert("RGBA"))
    return page.convert("RGB")


def _in_srgb(picture: Image) -> Image:
    """Convert RGB and CMYK by an embedded profile other than sRGB, such as Adobe RGB."""
    from PIL import ImageCms  # late: Pillow is optional

    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in ("RGB", "CMYK"):
        return picture.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return picture.convert("RGB")
        target = ImageCms.createProfile("sRGB")
        found = ImageCms.profileToProfile(picture, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # viewers show such a picture without its profile
        return picture.convert("RGB")
    assert found is not None  # only if it is converted in place
    return found
