"""Read picture files safely, as a viewer shows them."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")  # of Pillow; none runs another program
MOST_PIXELS = 2**27  # half a gigabyte of RGBA; cameras of 100 megapixels stay below
BITS_PER_SAMPLE = 258  # tag of TIFF
TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")  # modes of Pillow


def picture_files(folder: str | Path, endings: Collection[str]) -> dict[str, Path]:
    """Find the files below a folder that have one of the endings, sorted by name.

    Links that lead out of the folder, links to folders, pipes, devices and folders with such a name
    are left out and reported.

    Returns:
        Name relative to the folder -> file.
    """
    folder = Path(folder).expanduser()
    inside, found, odd = folder.resolve(), dict[str, Path](), []
    entries = sorted(folder.rglob("*"))
    report_linked_folders(folder, entries)
    for path in (p for p in entries if p.suffix.lower() in endings and not is_linked_folder(p)):
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


def is_linked_folder(path: Path) -> bool:
    """Tell whether an entry is a link to a folder, which is not followed."""
    return path.is_symlink() and path.is_dir()


def report_linked_folders(folder: Path, entries: Iterable[Path]) -> None:
    """Print how many entries below a folder are links to folders."""
    links = [path.relative_to(folder).as_posix() for path in entries if is_linked_folder(path)]
    if links:
        print(
            f"left out: {len(links)} links to folders below {folder}, such as "
            f"{', '.join(links[:3])}; copy the folders there to read their files"
        )


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


def stored_size(path: str | Path) -> tuple[int, int]:
    """Read the width and height of a picture as it is stored, before its orientation is applied.

    Raises:
        OSError: the file is not a picture.
    """
    from PIL import Image  # late: Pillow is optional

    with open_regular(path) as file, Image.open(file, formats=FORMATS) as opened:
        width, height = opened.size
        return width, height


def as_shown(picture: Image) -> Image:
    """Convert an opened picture to the RGB pixels that a viewer shows.

    The orientation tag and a colour profile are applied, 16 bits are scaled to 8, transparent
    pixels become white, and palettes and CMYK become RGB. An animation gives its first frame.

    Raises:
        ValueError: pixels of 32 bits, whose range the file does not state.
    """
    from PIL import Image, ImageOps  # late: Pillow is optional

    clear = picture.info.get("transparency")
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        return _grey(upright, clear, upright.mode.startswith("I;16") or _is_16_bits(picture))
    if upright.mode not in TRANSPARENT and clear is None:
        return _in_srgb(upright, upright.info.get("icc_profile"))
    page, shown = Image.new("RGBA", upright.size, "white"), upright.convert("RGBA")
    colours = _in_srgb(shown.convert("RGB"), upright.info.get("icc_profile"))
    colours.putalpha(shown.getchannel("A"))
    page.alpha_composite(colours)
    return page.convert("RGB")


def _is_16_bits(picture: Image) -> bool:
    """Tell whether a TIFF file stores whole numbers of 16 bits, which Pillow widens to 32."""
    bits = getattr(picture, "tag_v2", {}).get(BITS_PER_SAMPLE)
    return picture.mode == "I" and bits == (16,)


def _grey(picture: Image, clear: Any, sixteen: bool) -> Image:
    """Scale grey pixels of 16 bits to 8.

    Raises:
        ValueError: pixels of 32 bits or floats, or below zero.
    """
    import numpy as np
    from PIL import Image  # late: Pillow is optional

    values = np.asarray(picture)
    if not sixteen or values.min() < 0:
        raise ValueError(
            f"pixels of mode {picture.mode} from {values.min():g} to {values.max():g}; save "
            "the picture with 8 or 16 bits"
        )
    grey = (values / 257).round().astype(np.uint8)
    if isinstance(clear, int):  # the one grey value that is transparent
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _in_srgb(picture: Image, profile: bytes | None) -> Image:
    """Convert RGB, palettes and CMYK by an embedded profile other than sRGB, such as Adobe RGB."""
    from PIL import ImageCms  # late: Pillow is optional

    if not profile or picture.mode not in ("RGB", "CMYK", "P"):
        return picture.convert("RGB")
    picture = picture.convert("RGB") if picture.mode == "P" else picture  # its colours, not indices
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
