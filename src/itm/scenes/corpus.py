"""Where the corpus lives on disk, and how it gets there and back.

One folder for each set of parameters, in the SCAN layout (`{split}_ims.npy`, `{split}_caps.txt`,
`{split}_ids.txt`) with `{split}_boxes.npy`, `{split}_phrases.jsonl`, `{split}_scenes.jsonl` and
`scenes.json`, the parameters.
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

from itm.scenes.draw import draw_scenes
from itm.scenes.language import captions
from itm.scenes.regions import detect
from itm.scenes.world import Scene

# part of every folder's name: raise it with any change to what is written
VERSION = 1
SPLITS = ("train", "dev", "test")


def cache_root() -> Path:
    """Where generated data goes: `$ITM_CACHE`, else `$XDG_CACHE_HOME/itm`, else `~/.cache/itm`."""
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
    """The folder that `write_scenes` fills for these parameters; nothing is written."""
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
    """Generate the corpus, or return at once where these parameters have been generated before.

    The folder appears complete or not at all; processes that write it at the same time do not
    disturb each other. The same parameters give the same bytes.

    Args:
        root: folder that holds one folder for each set of parameters; default `cache_root()`.
        images: number of train, dev and test images.
        regions: R, regions of every image.
        width: F, width of a region vector.
        noise: standard deviation of the noise on region vectors, whose parts weigh about 1.
        seed: another seed gives other scenes in the same feature space.

    Returns:
        The folder, `root / "scenes-<digest of the parameters>"`.

    Raises:
        ValueError: a number that makes no corpus.
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
            # another process was first, and wrote the same bytes
            if not (folder / "scenes.json").is_file():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def load_scenes(folder: str | Path, split: str) -> list[Scene]:
    """The scenes of a split, one for each image row."""
    return [Scene.from_dict(values) for values in _read_lines(folder, f"{split}_scenes.jsonl")]


def load_phrases(folder: str | Path, split: str) -> list[dict[str, Any]]:
    """The phrases of a split, in caption order.

    Each has `image` (row), `caption` (row), `phrase`, `span` ([start, stop] in the words of the
    caption split at spaces), `type` (people, clothing, animals, vehicles, scene, other) and
    `boxes` (x1, y1, x2, y2 as fractions of width and height; several where it names several
    things).
    """
    return _read_lines(folder, f"{split}_phrases.jsonl")


def _parameters(
    images: tuple[int, int, int], regions: int, width: int, noise: float, seed: int
) -> dict[str, Any]:
    if len(images) != len(SPLITS) or min(images) < 1:
        raise ValueError(f"images={images}: give three counts of at least 1: train, dev, test")
    if regions < 1 or width < 1 or not 0 <= noise < float("inf"):
        raise ValueError(
            f"regions={regions}, width={width}, noise={noise}: regions and width must be at "
            "least 1, noise at least 0"
        )
    if seed < 0:
        raise ValueError(f"seed={seed}: give a whole number of at least 0")
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
    # one stream for each side, so that features may change without changing scenes or captions
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
            f"{path} is not there; write_scenes() makes a folder with train, dev and test splits"
        )
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
