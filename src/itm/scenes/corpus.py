"""Write the generated corpus to disk and read it back.

There is one folder for each set of parameters. It has the SCAN layout (`{split}_ims.npy`,
`{split}_caps.txt`, `{split}_ids.txt`) plus `{split}_boxes.npy`, `{split}_phrases.jsonl`,
`{split}_scenes.jsonl` and `scenes.json` with the parameters.
"""

import json
import os
import shutil
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import numpy as np

from itm.scenes.language import captions
from itm.scenes.regions import detect
from itm.scenes.sample import draw_scenes
from itm.scenes.world import Scene

# part of every folder's name; increase it with every change of the written data
VERSION = 1
SPLITS = ("train", "dev", "test")


def cache_root() -> Path:
    """Return the data folder: `$ITM_CACHE`, else `$XDG_CACHE_HOME/itm`, else `~/.cache/itm`."""
    if chosen := os.environ.get("ITM_CACHE"):
        return Path(chosen).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser() / "itm"
    return Path.home() / ".cache" / "itm"


def scenes_folder(
    root: str | Path | None = None,
    *,
    images: tuple[int, int, int] = (2000, 500, 500),
    regions: int = 12,
    width: int = 64,
    noise: float = 1.5,
    seed: int = 0,
) -> Path:
    """Return the folder that `write_scenes` fills for these parameters, without writing to it."""
    return _folder(root, _parameters(images, regions, width, noise, seed))


def write_scenes(
    root: str | Path | None = None,
    *,
    images: tuple[int, int, int] = (2000, 500, 500),
    regions: int = 12,
    width: int = 64,
    noise: float = 1.5,
    seed: int = 0,
) -> Path:
    """Generate the corpus, or return at once if it exists for these parameters.

    The folder appears complete or not at all; processes that write it at the same time do not
    disturb each other. The same parameters give the same bytes.

    Args:
        root: parent folder of the corpora; None = `cache_root()`.
        images: number of train, dev and test images.
        regions: R, regions of every image.
        width: F, width of a region vector.
        noise: standard deviation of the noise on region vectors; the facts have weights of about 1.
        seed: seed of the scenes; all seeds share the same feature space.

    Returns:
        The folder, `root / "scenes-<digest of the parameters>"`.

    Raises:
        ValueError: a parameter is out of range.
        OSError: the folder cannot be written.
    """
    parameters = _parameters(images, regions, width, noise, seed)
    folder = _folder(root, parameters)
    if (folder / "scenes.json").is_file():
        return folder
    partial = folder.with_name(f".{folder.name}-{uuid4().hex}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise OSError(
            f"cannot write to {folder.parent} ({error.strerror}); set the environment variable "
            "ITM_CACHE, or pass root=, to a folder that can be written"
        ) from error
    try:
        for split, count in zip(SPLITS, images, strict=True):
            _write_split(partial, split, count, regions, width, noise, seed)
        (partial / "scenes.json").write_text(json.dumps(parameters, indent=2) + "\n", "utf-8")
        try:
            partial.rename(folder)
        except OSError:
            # another process was faster and wrote the same bytes
            if not (folder / "scenes.json").is_file():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def load_scenes(folder: str | Path, split: str) -> list[Scene]:
    """Read the scenes of a split, one for each image row."""
    return [Scene.from_dict(values) for values in _read_lines(folder, f"{split}_scenes.jsonl")]


def load_phrases(folder: str | Path, split: str) -> list[dict[str, Any]]:
    """Read the phrases of a split, in caption order.

    Each has `image` (row), `caption` (row), `phrase`, `span` ([start, stop] in the words of the
    caption split at spaces), `type` (people, clothing, animals, vehicles, scene, other) and
    `boxes` (x1, y1, x2, y2 as fractions of width and height; several boxes if the phrase names
    several things).
    """
    return _read_lines(folder, f"{split}_phrases.jsonl")


def _parameters(
    images: tuple[int, int, int], regions: int, width: int, noise: float, seed: int
) -> dict[str, Any]:
    if len(images) != len(SPLITS) or min(images) < 1:
        raise ValueError(
            f"images must be three counts of at least 1 (train, dev, test), got {images}"
        )
    if regions < 1 or width < 1 or not 0 <= noise < float("inf"):
        raise ValueError(
            "regions and width must be at least 1 and noise at least 0, got "
            f"regions={regions}, width={width}, noise={noise}"
        )
    if seed < 0:
        raise ValueError(f"seed must be a whole number of at least 0, got {seed}")
    return {
        "images": [int(n) for n in images],
        "regions": int(regions),
        "width": int(width),
        "noise": float(noise),
        "seed": int(seed),
        "version": VERSION,
    }


def _folder(root: str | Path | None, parameters: dict[str, Any]) -> Path:
    digest = sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]
    return (cache_root() if root is None else Path(root).expanduser()) / f"scenes-{digest}"


def _write_split(
    folder: Path, split: str, count: int, regions: int, width: int, noise: float, seed: int
) -> None:
    # a random stream for each side, so that features can change without changing scenes or captions
    scenes = list(draw_scenes(Random(f"{seed} {split} scenes"), count, f"{split}-{seed}"))
    talk = Random(f"{seed} {split} captions")
    look = np.random.default_rng([seed, SPLITS.index(split)])
    vectors = np.empty((count, regions, width), np.float16)
    boxes = np.empty((count, regions, 4), np.float32)
    lines: list[str] = []
    phrases: list[dict[str, Any]] = []
    for row, scene in enumerate(scenes):
        vectors[row], boxes[row] = detect(look, scene, regions, width, noise)
        for text, mentions in captions(talk, scene):
            phrases += [
                {
                    "image": row,
                    "caption": len(lines),
                    "phrase": phrase.text,
                    "span": [start, stop],
                    "type": phrase.type,
                    "boxes": phrase.boxes,
                }
                for phrase, start, stop in mentions
            ]
            lines.append(text)
    np.save(folder / f"{split}_ims.npy", vectors)
    np.save(folder / f"{split}_boxes.npy", boxes)
    _write_lines(folder / f"{split}_caps.txt", lines)
    _write_lines(folder / f"{split}_ids.txt", [scene.id for scene in scenes])
    _write_lines(folder / f"{split}_phrases.jsonl", map(json.dumps, phrases))
    _write_lines(folder / f"{split}_scenes.jsonl", (json.dumps(s.to_dict()) for s in scenes))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _read_lines(folder: str | Path, name: str) -> list[dict[str, Any]]:
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; write_scenes() makes a folder with train, dev and test splits"
        )
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
