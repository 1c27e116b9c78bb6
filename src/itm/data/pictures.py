"""Pictures of a split's images: files named as the ids, or drawn scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from itm.data.layout import Split
from itm.visual.html import PICTURES, Html, thumbnail

if TYPE_CHECKING:
    from PIL.Image import Image


class Pictures:
    """Pictures and their thumbnails by image id.

    Ids are never made into paths: a file is found among those below the folder, by its name with
    or without its ending, or by its path from the folder.

    Args:
        split: where the images come from; scenes it brings are drawn.
        folder: of picture files, instead.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no picture in it has the id of an image.
    """

    def __init__(self, split: Split, folder: str | Path | None = None):
        self._files: dict[str, Path] = {}
        self._scenes: dict[str, Any] = {}
        if folder is not None:
            if not Path(folder).is_dir():
                raise FileNotFoundError(f"images={folder} is no folder")
            found = [p for p in sorted(Path(folder).rglob("*")) if p.suffix.lower() in PICTURES]
            self._files = {p.stem: p for p in found} | {p.name: p for p in found}
            self._files |= {p.relative_to(folder).as_posix(): p for p in found}
            ids = split.ids or [str(row) for row in range(split.num_images)]
            if not self._files.keys() & set(ids):
                raise ValueError(
                    f"none of the {len(found)} pictures in {folder} is named as an image of split "
                    f"{split.name}, such as {ids[0]!r} or '{ids[0]}.jpg'"
                )
        elif (split.folder / f"{split.name}_scenes.jsonl").is_file():
            from itm.scenes import load_scenes

            self._scenes = {scene.id: scene for scene in load_scenes(split.folder, split.name)}

    def thumbnail(self, name: str, size: int = 320) -> Html | None:
        """The picture of an image, or None when there is none."""
        if name in self._files:
            return thumbnail(self._files[name], size, alt=name)
        if name not in self._scenes:
            return None
        from itm.scenes import render

        try:
            return thumbnail(render(self._scenes[name], size=(size, 3 * size // 4)), size, alt=name)
        except ImportError:  # a page without pictures, where Pillow is missing
            return None

    def full(self, name: str) -> Image | None:
        """The whole picture of an image, upright, or None when there is none.

        Raises:
            ValueError: a file that is no picture.
        """
        if name in self._files:
            from PIL import Image, ImageOps, UnidentifiedImageError

            try:
                with Image.open(self._files[name]) as opened:
                    return ImageOps.exif_transpose(opened).convert("RGB")
            except UnidentifiedImageError as error:
                raise ValueError(f"{self._files[name]} is no picture that can be read") from error
        if name in self._scenes:
            from itm.scenes import render

            return render(self._scenes[name])
        return None
