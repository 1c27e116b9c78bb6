"""`python -m itm.extract`: from a folder of pictures and a file of sentences to a data folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf

from itm.app.config import CONF
from itm.app.entry import run
from itm.data.layout import read_split
from itm.features.partition import Names, partition
from itm.features.sentences import read_sentences
from itm.features.store import Store, fit, write_captions
from itm.utils.files import write_text

RECORD = "extract.json"  # in the folder: what it was made of, by which a killed run goes on
HOW = ("backbone", "size", "windows", "overlap", "regions", "dtype", "seed", "fractions")


def extract(cfg: DictConfig) -> Path:
    """Write region features, boxes, ids and captions of all splits; go on after a kill.

    Returns:
        The folder.

    Raises:
        ValueError: captions and pictures that do not meet, or a folder made with other settings.
        FileNotFoundError: no pictures.
        ImportError: Pillow or the backbone's package is missing.
    """
    from itm.features.backbones import backbone
    from itm.features.pictures import find_pictures

    if cfg.images is None:
        cfg.images, cfg.captions = draw_pictures(Path("scenes_pictures"))
    pictures = find_pictures(cfg.images)
    out = Path(cfg.out or f"{Path(cfg.images).expanduser().resolve()}_features")
    splits = plan(cfg, pictures, out)
    given = read_boxes(cfg.boxes, [name for names in splits.values() for name in names])
    network = backbone(cfg.backbone, cfg.size)
    for split, names in splits.items():
        fill(
            cfg, out, split, [pictures[name] for name in names], network, _boxes(cfg, given, names)
        )
    look = f"; look at it: python -m itm.prepare data=flickr8k data.root={out}"
    print(f"written to {out}{look if cfg.captions else ''}")
    return out


def plan(cfg: DictConfig, pictures: Mapping[str, Path], out: Path) -> dict[str, list[str]]:
    """Pictures of each split: those of an earlier, killed run, or new ones with their captions.

    Raises:
        ValueError: `out` was made with other settings.
    """
    how = {key: OmegaConf.to_container(cfg)[key] for key in HOW}  # type: ignore[index, call-overload]
    how |= {key: _digest(cfg[key]) for key in ("captions", "boxes")}
    how["splits"] = {split: _digest(path) for split, path in cfg.splits.items()}
    how["images"] = str(Path(cfg.images).expanduser().resolve())
    path = out / RECORD
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        other = [key for key in how if record["settings"].get(key) != how[key]]
        if other:
            raise ValueError(
                f"{out} was made with other {', '.join(other)}; choose another out=, or delete it"
            )
        return record["splits"]
    splits = _new_plan(cfg, pictures, out)
    write_text(path, json.dumps({"settings": how, "splits": splits}))
    return splits


def _new_plan(cfg: DictConfig, pictures: Mapping[str, Path], out: Path) -> dict[str, list[str]]:
    from itm.features.pictures import broken

    if cfg.captions is None:
        names, captions, known = list(pictures), dict[str, list[str]](), dict[str, str]()
    else:
        names, captions, known = _captioned(cfg.captions, pictures)
    bad = broken([pictures[name] for name in names], cfg.workers)
    for file, why in bad.items():
        print(f"left out: {file} cannot be read ({why})")
    names = [name for name in names if pictures[name] not in bad]
    if cfg.captions is None:
        splits = {"all": names}
    else:
        splits = partition(names, cfg.splits, known, cfg.fractions, cfg.seed)
    if not any(splits.values()):
        raise ValueError(f"no picture of {cfg.images} can be used")
    print(", ".join(f"{split}: {len(names)} pictures" for split, names in splits.items()))
    out.mkdir(parents=True, exist_ok=True)
    if captions:
        write_captions(out, splits, captions)
    else:
        write_text(out / "all_ids.txt", "".join(f"{name}\n" for name in names))
    return splits


def _captioned(
    path: str, pictures: Mapping[str, Path]
) -> tuple[list[str], dict[str, list[str]], dict[str, str]]:
    """Pictures with captions, their captions, and their splits where the file knows them.

    Raises:
        ValueError: no caption belongs to a picture.
    """
    sentences, find = read_sentences(path), Names(pictures)
    captions: dict[str, list[str]] = {}
    known: dict[str, str] = {}
    lost = []
    for name, own in sentences.captions.items():
        picture = find.find(name)
        if picture is None:
            lost.append(name)
            continue
        captions.setdefault(picture, []).extend(own)
        if name in sentences.splits:
            known[picture] = sentences.splits[name]
    if not captions:
        raise ValueError(
            f"no picture has the name of a caption: the captions name {lost[0]!r}, the pictures "
            f"are called {next(iter(pictures))!r}"
        )
    if lost:
        print(f"left out: captions of {len(lost)} names without a picture, such as {lost[0]!r}")
    if len(pictures) > len(captions):
        some = next(name for name in pictures if name not in captions)
        print(
            f"left out: {len(pictures) - len(captions)} pictures without captions, such as {some}"
        )
    if sentences.empty:
        print(f"left out: {sentences.empty} empty captions")
    return [name for name in pictures if name in captions], captions, known


def _digest(path: str | None) -> str | None:
    return None if path is None else sha256(Path(path).expanduser().read_bytes()).hexdigest()


def read_boxes(path: str | None, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Boxes of every picture from a JSON file.

    Raises:
        ValueError: pictures without boxes, or boxes that are no (R, 4) numbers.
    """
    if path is None:
        return None
    find, found = Names(names), {}
    for name, boxes in json.loads(Path(path).read_text(encoding="utf-8")).items():
        picture, array = find.find(name), np.asarray(boxes, np.float32)
        if array.ndim != 2 or array.shape[1] != 4 or not len(array):
            raise ValueError(f"{path}: {name} has boxes {array.shape}, expected (regions, 4)")
        if picture is not None:
            found[picture] = array
    absent = [name for name in names if name not in found]
    if absent:
        raise ValueError(f"{path} has no boxes for {len(absent)} pictures, such as {absent[0]!r}")
    return found


def _boxes(cfg: DictConfig, given: dict[str, np.ndarray] | None, names: Sequence[str]) -> Any:
    """(R, 4) windows for all, or a list of (R, 4), one a picture."""
    if given is None:
        from itm.features.windows import windows

        return windows(OmegaConf.to_container(cfg.windows), cfg.overlap)  # type: ignore[arg-type]
    regions = cfg.regions or len(next(iter(given.values())))
    return [fit(given[name], regions) for name in names]


def fill(
    cfg: DictConfig, out: Path, split: str, paths: Sequence[Path], network: Any, boxes: Any
) -> None:
    """Features of one split, those that are missing."""
    import torch
    from rich.progress import track
    from torch.utils.data import DataLoader

    from itm.features.pictures import Pictures
    from itm.features.windows import coverage
    from itm.utils.devices import find_device

    device = find_device(cfg.device)
    network = network.to(device)
    with torch.inference_mode():
        blank = torch.zeros(1, 3, network.size, network.size, device=device)
        width = network(blank).shape[1]
    regions = len(boxes if isinstance(boxes, np.ndarray) else boxes[0])
    store = Store(out, split, (len(paths), regions, width), cfg.dtype, resume=True)
    rows = store.missing
    if 0 < len(rows) < len(paths):
        print(f"{split}: going on with {len(rows)} of {len(paths)} pictures")
    loader = DataLoader(
        Pictures(paths, rows, network.size, boxes), cfg.batch_size, num_workers=cfg.workers
    )
    for at, pixels, places in track(loader, split, disable=not len(rows)):
        with torch.inference_mode():
            maps = network(pixels.to(device).permute(0, 3, 1, 2).float())  # (B, F, H, W)
            weights = torch.from_numpy(coverage(places.numpy(), *maps.shape[2:])).to(device)
            regional = weights @ maps.float().flatten(2).mT  # (B, R, F)
        store.write(at.numpy(), regional.cpu().numpy(), places.numpy())
        store.flush()
    store.finish()


def draw_pictures(folder: Path, count: int = 120) -> tuple[str, str]:
    """Draw scenes as picture files with a caption file, to try the command without pictures."""
    from itm.scenes import load_scenes, render, write_scenes

    source = write_scenes(images=(count, 1, 1))
    captions = read_split(source, "train").references()
    folder.mkdir(exist_ok=True)
    lines = []
    for scene, own in zip(load_scenes(source, "train"), captions, strict=True):
        path = folder / f"{scene.id}.jpg"
        if not path.is_file():
            render(scene, path)
        lines += [f"{path.name}\t{caption}\n" for caption in own]
    file = Path(f"{folder}.txt")
    file.write_text("".join(lines), encoding="utf-8")
    print(f"drew {count} pictures to {folder}, captions in {file}")
    return str(folder), str(file)


@hydra.main(version_base="1.3", config_path=CONF, config_name="extract")
def _main(cfg: DictConfig) -> None:
    extract(cfg)


def main() -> None:
    """Console entry point."""
    run(_main)


if __name__ == "__main__":
    main()
