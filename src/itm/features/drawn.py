"""Draw scenes as picture files with captions, to try `itm.extract` without pictures."""

from pathlib import Path

from itm.data.layout import read_split
from itm.scenes import load_scenes, render, write_scenes
from itm.utils.errors import TakenError
from itm.utils.files import replacing, write_text


def draw_pictures(folder: Path, count: int = 120) -> Path:
    """Draw the pictures that a folder lacks, and write their captions to `FOLDER.txt` beside it.

    Args:
        folder: created if missing.
        count: number of pictures.

    Returns:
        The caption file.

    Raises:
        TakenError: the folder or the caption file holds something else.
    """
    source = write_scenes(images=(count, 1, 1))
    captions = read_split(source, "train").references()
    scenes = {f"{scene.id}.jpg": scene for scene in load_scenes(source, "train")}
    names = zip(scenes, captions, strict=True)
    text = "".join(f"{name}\t{caption}\n" for name, own in names for caption in own)
    file = Path(f"{folder}.txt")
    _check_own(folder, set(scenes), file, text)
    folder.mkdir(exist_ok=True)
    for name, scene in scenes.items():
        if not (folder / name).is_file():
            with replacing(folder / name) as picture:
                render(scene).save(picture, "JPEG")
    write_text(file, text)
    return file


def _check_own(folder: Path, names: set[str], file: Path, text: str) -> None:
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    foreign = [name for name in sorted(there - names) if not name.endswith(".unfinished")]
    if foreign or (folder.exists() and not folder.is_dir()):
        raise TakenError(
            f"{folder} holds {', '.join(foreign[:3]) or 'no folder'}, which was not drawn here: "
            "give images=FOLDER to extract your own pictures, or work in another folder"
        )
    if file.exists() and (not file.is_file() or file.read_text("utf-8", "replace") != text):
        raise TakenError(
            f"{file} holds other text than the captions of the drawn pictures: move it away, or "
            "work in another folder"
        )
