"""`python -m itm.extract`: from a folder of pictures and a file of sentences to a data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from itm.app.config import CONF
from itm.app.entry import run

# Options that change the features or the splits: a folder is continued only with equal ones.
SETTINGS = ("backbone", "size", "windows", "overlap", "regions", "dtype", "seed", "fractions")


def command(cfg: DictConfig) -> Path:
    """Write region features, boxes, ids and captions of all splits; go on after a kill.

    Returns:
        The folder.

    Raises:
        ValueError: captions and pictures do not meet, or the folder was made with other settings.
        FileNotFoundError: no pictures.
        ImportError: Pillow or the backbone's package is missing.
    """
    # Late, since they bring torch, which `--help` need not wait for.
    from itm.features.backbones import backbone
    from itm.features.drawn import draw_pictures
    from itm.features.extraction import extract_split, fit_boxes, read_boxes
    from itm.features.pictures import find_pictures
    from itm.features.windows import windows
    from itm.utils.devices import find_device

    if cfg.images is None:
        cfg.images = "scenes_pictures"
        cfg.captions = str(draw_pictures(Path(cfg.images)))
        print(f"drew pictures to {cfg.images}, captions in {cfg.captions}")
    pictures = find_pictures(cfg.images)
    out = Path(cfg.out or f"{Path(cfg.images).expanduser().resolve()}_features")
    splits = plan(cfg, pictures, out)
    boxes = None
    if cfg.boxes is not None:
        boxes = read_boxes(cfg.boxes, [name for names in splits.values() for name in names])
    levels: Any = OmegaConf.to_container(cfg.windows)
    network = backbone(cfg.backbone, cfg.size).to(find_device(cfg.device))
    for split, names in splits.items():
        regions: Any = windows(levels, cfg.overlap)
        if boxes is not None:
            regions = fit_boxes(boxes, names, cfg.regions)
        paths = [pictures[name] for name in names]
        extract_split(out, split, paths, network, regions, cfg.dtype, cfg.batch_size, cfg.workers)
    look = f"; look at it: python -m itm.prepare data=flickr8k data.root={out}"
    print(f"written to {out}{look if cfg.captions else ''}")
    return out


def plan(cfg: DictConfig, pictures: dict[str, Path], out: Path) -> dict[str, list[str]]:
    """Assign pictures to splits: as an earlier, killed run did, or anew.

    Raises:
        ValueError: `out` was made with other settings.
    """
    from itm.features.plan import describe_settings, make_plan, read_plan, write_plan

    plain: Any = OmegaConf.to_container(cfg)
    options = {key: plain[key] for key in SETTINGS}
    settings = describe_settings(cfg.images, cfg.captions, cfg.boxes, cfg.splits, options)
    splits = read_plan(out, settings)
    if splits is None:
        splits, captions = make_plan(
            pictures, cfg.captions, cfg.splits, cfg.fractions, cfg.seed, cfg.workers, cfg.partial
        )
        write_plan(out, settings, splits, captions)
    return splits


@hydra.main(version_base="1.3", config_path=CONF, config_name="extract")
def _main(cfg: DictConfig) -> None:
    command(cfg)


def main() -> None:
    """Console entry point."""
    run(_main)


if __name__ == "__main__":
    main()
