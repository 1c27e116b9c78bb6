"""Pictures of a split's images: files named by the ids, or drawn scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from itm.data.names import Names

if TYPE_CHECKING:
    from PIL.Image import Image

    from itm.data.layout import Split

FORMATS = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",  # inside <img> a browser runs none of its scripts
}
TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")  # modes of Pillow


class Pictures:
    """Find the picture of an image by the image's id.

    Ids never become paths: they are matched to the files below the folder by
    `itm.data.names.Names`.

    Args:
        split: where the images come from; its scenes, if it has any, are drawn.
        folder: of picture files, in place of scenes.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no picture in it has the id of an image, or an id could mean two pictures.
    """

    def __init__(self, split: Split, folder: str | Path | None = None):
        self._files: dict[str, Path] = {}
        self._scenes: dict[str, Any] = {}
        if folder is not None:
            if not Path(folder).is_dir():
                raise FileNotFoundError(f"images={folder} is not a folder")
            found = [p for p in sorted(Path(folder).rglob("*")) if p.suffix.lower() in FORMATS]
            ids = split.ids or [str(row) for row in range(split.num_images)]
            files = {path.relative_to(folder).as_posix(): path for path in found}
            matched = Names(files).match(ids)
            self._files = {name: files[file] for name, file in matched.items()}
            if not matched:
                raise ValueError(
                    f"none of the {len(found)} pictures in {folder} is named as an image of split "
                    f"{split.name}, such as {ids[0]!r} or '{ids[0]}.jpg'"
                )
        elif (split.folder / f"{split.name}_scenes.jsonl").is_file():
            from itm.scenes import load_scenes  # late: most splits have no scenes

            self._scenes = {scene.id: scene for scene in load_scenes(split.folder, split.name)}

    def find(self, name: str, width: int = 480) -> Path | Image | None:
        """Find the file of an image, or draw its scene `width` pixels wide.

        Returns:
            A file, a drawn scene, or None where the image has no picture.

        Raises:
            ImportError: drawing needs Pillow.
        """
        if name in self._files:
            return self._files[name]
        if name not in self._scenes:
            return None
        from itm.scenes import render  # late: most splits have no scenes

        return render(self._scenes[name], size=(width, 3 * width // 4))

    def full(self, name: str) -> Image | None:
        """Read the whole picture of an image, upright; None where it has no picture.

        Raises:
            ValueError: a file that is not a picture.
            ImportError: Pillow is missing.
        """
        found = self.find(name)
        return open_upright(found) if isinstance(found, Path) else found


def open_upright(path: Path) -> Image:
    """Read a picture file as RGB, as a viewer shows it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture.
        ImportError: Pillow is missing.
    """
    from PIL import Image, UnidentifiedImageError  # late: Pillow is optional

    try:
        with Image.open(path) as opened:
            return as_shown(opened)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not a picture that can be read") from error


def as_shown(picture: Image) -> Image:
    """Turn an opened picture into the RGB pixels that a viewer shows.

    The picture is turned as its camera was held, 16 bits are scaled to 8, transparent pixels show a
    white page, palettes and CMYK become RGB. Of an animation it is the first frame.

    Raises:
        ValueError: pixels of 32 bits, whose range the file does not tell.
    """
    import numpy as np
    from PIL import Image, ImageOps  # late: Pillow is optional

    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        values = np.asarray(upright)
        if upright.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"pixels of mode {upright.mode} from {values.min():g} to {values.max():g}; save "
                "the picture with 8 or 16 bits"
            )
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")
    if upright.mode not in TRANSPARENT and "transparency" not in upright.info:
        return upright.convert("RGB")
    page = Image.new("RGBA", upright.size, "white")
    page.alpha_composite(upright.convert("RGBA"))
    return page.convert("RGB")
