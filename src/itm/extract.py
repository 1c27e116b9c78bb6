"""`python -m itm.extract`: make a data folder from pictures and a file of sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from itm.app.config import CONF
from itm.app.entry import run

if TYPE_CHECKING:
    import numpy as np

# Options that change the features or the splits; a folder is continued only
# if they are equal.
SETTINGS = (
    "backbone", "revision", "size", "windows", "overlap", "regions", "dtype", "seed", "fractions",
)  # fmt: skip


def command(cfg: DictConfig) -> Path:
    """Write region features, boxes, ids and captions of all splits; continue after a kill.

    Returns:
        The folder.

    Raises:
        ValueError: captions and pictures do not belong together, or the folder holds other files
            or features of other settings.
        FileNotFoundError: there are no pictures.
        ImportError: Pillow or the backbone's package is missing.
    """
    # Late, because they load torch, and `--help` should not wait for it.
    from itm.features.data_folder import building, is_complete
    from itm.features.drawn import draw_pictures
    from itm.features.pictures import find_pictures
    from itm.features.plan import RECORD, describe_settings
    from itm.features.windows import windows

    if cfg.images is None:
        cfg.images = "scenes_pictures"
        cfg.captions = str(draw_pictures(Path(cfg.images)))
        print(f"drew pictures to {cfg.images}, captions in {cfg.captions}")
    pictures = find_pictures(cfg.images)
    out = Path(cfg.out or f"{Path(cfg.images).expanduser().resolve()}_features").expanduser()
    plain: Any = OmegaConf.to_container(cfg)
    regions = windows(plain["windows"], cfg.overlap)
    options = {key: plain[key] for key in SETTINGS}
    settings = describe_settings(pictures, cfg.captions, cfg.boxes, cfg.splits, options)
    look = f"; look at it: python -m itm.prepare data=flickr8k data.root={out}"
    if not cfg.overwrite and is_complete(out, RECORD, settings):
        print(f"{out} holds these features already{look if cfg.captions else ''}")
        return out
    with building(out, RECORD, settings, cfg.overwrite, resume=True) as folder:
        fill(cfg, pictures, folder, settings, regions)
    print(f"written to {out}{look if cfg.captions else ''}")
    return out


def fill(
    cfg: DictConfig,
    pictures: dict[str, Path],
    folder: Path,
    settings: dict[str, Any],
    regions: np.ndarray,
) -> None:
    """Write all splits to a folder, by the plan of an earlier, killed run or by a new one."""
    from itm.features.backbones import backbone
    from itm.features.extraction import extract_split, fit_boxes, read_boxes
    from itm.features.plan import make_plan, read_plan, write_plan
    from itm.utils.devices import find_device

    splits = read_plan(folder, settings)
    if splits is None:
        splits, captions = make_plan(
            pictures, cfg.captions, cfg.splits, cfg.fractions, cfg.seed, cfg.workers, cfg.partial
        )
        write_plan(folder, settings, splits, captions)
    boxes = None
    if cfg.boxes is not None:
        every = [name for names in splits.values() for name in names]
        boxes = fit_boxes(read_boxes(cfg.boxes, every), cfg.regions)
    network = backbone(cfg.backbone, cfg.size, cfg.revision).to(find_device(cfg.device))
    sizes = (cfg.dtype, cfg.batch_size, cfg.workers)
    for split, names in splits.items():
        own = regions if boxes is None else [boxes[name] for name in names]
        extract_split(folder, split, [pictures[name] for name in names], network, own, *sizes)


@hydra.main(version_base="1.3", config_path=CONF, config_name="extract")
def _main(cfg: DictConfig) -> None:
    command(cfg)


def main() -> None:
    """Console entry point."""
    run(_main)


if __name__ == "__main__":
    main()
