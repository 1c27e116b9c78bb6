"""Find the pictures of a split's images: files named by the ids, or drawn scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from itm.data.names import ENDINGS, Names, report_lost
from itm.data.split import name_of
from itm.utils.picture_files import picture_files, read_picture

if TYPE_CHECKING:
    from PIL.Image import Image

    from itm.data.layout import Split

FORMATS = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".jfif": "image/jpeg",
    ".png": "image/png",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".svg": "image/svg+xml",  # browsers run no scripts of an SVG inside <img>
}


class Pictures:
    """Find the picture of an image by the image's id.

    Ids never become paths: they are matched to the files below the folder by
    `itm.data.names.Names`.

    Args:
        split: split of the images; its scenes, if any, are drawn.
        folder: folder of picture files, used instead of scenes.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: no picture in it has the id of an image, or an id could mean two pictures.
    """

    def __init__(self, split: Split, folder: str | Path | None = None):
        self._files: dict[str, Path] = {}
        self._scenes: dict[str, Any] = {}
        if folder is not None:
            if not Path(folder).is_dir():
                raise FileNotFoundError(f"images={folder} is not a folder")
            ids = split.ids or [str(row) for row in range(split.num_images)]
            files = picture_files(folder, FORMATS)
            if split.ids is None:  # only files that are named by a row
                files = {name: path for name, path in files.items() if path.stem.isdecimal()}
            names = Names(files, folder)
            matched = names.match(ids)
            names.report()
            self._files = {name: files[file] for name, file in matched.items()}
            lost = [name for name in ids if name not in matched]
            report_lost(
                (f"images of split {split.name} without a picture", lost, len(ids)), partial=True
            )
            if not matched:
                other = "" if ENDINGS.search(ids[0]) else f" or '{ids[0]}.jpg'"
                raise ValueError(
                    f"none of the {len(files)} pictures in {folder} is named as an image of split "
                    f"{split.name}, such as {ids[0]!r}{other}"
                )
        elif (split.folder / f"{split.name}_scenes.jsonl").is_file():
            from itm.scenes import load_scenes  # late: most splits have no scenes

            self._scenes = {scene.id: scene for scene in load_scenes(split.folder, split.name)}

    def find(self, name: str, width: int = 480) -> Path | Image | None:
        """Find the file of an image, or draw its scene `width` pixels wide.

        Returns:
            A file, a drawn scene, or None if the image has no picture.

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
        """Read the picture of an image in full size, turned upright; None if it has no picture.

        Raises:
            ValueError: the file is not a picture.
            ImportError: Pillow is missing.
        """
        found = self.find(name)
        return read_picture(found) if isinstance(found, Path) else found


def required_picture(split: Split, row: int, folder: str | Path | None = None) -> Image:
    """Read the picture of an image in full size.

    Args:
        split: split of the image.
        row: its row.
        folder: as in `Pictures`.

    Raises:
        ValueError: the image has no picture.
    """
    name = name_of(split, row)
    picture = Pictures(split, folder).full(name)
    if picture is None:
        raise ValueError(f"image={name} has no picture; give images=FOLDER with pictures")
    return picture
