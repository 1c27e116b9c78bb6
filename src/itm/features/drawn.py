"""Draw scenes as picture files with captions, to try `itm.extract` without pictures."""

from pathlib import Path

from itm.data.layout import read_split
from itm.scenes import load_scenes, render, write_scenes
from itm.utils.files import replacing, write_text


def draw_pictures(folder: Path, count: int = 120) -> Path:
    """Draw the pictures that a folder lacks, and write their captions to `FOLDER.txt` beside it.

    Args:
        folder: created if missing.
        count: number of pictures.

    Returns:
        The caption file.
    """
    source = write_scenes(images=(count, 1, 1))
    captions = read_split(source, "train").references()
    folder.mkdir(exist_ok=True)
    lines = []
    for scene, own in zip(load_scenes(source, "train"), captions, strict=True):
        path = folder / f"{scene.id}.jpg"
        if not path.is_file():
            with replacing(path) as picture:
                render(scene).save(picture, "JPEG")
        lines += [f"{path.name}\t{caption}\n" for caption in own]
    file = Path(f"{folder}.txt")
    write_text(file, "".join(lines))
    return file
