"""`python -m itm.extract`: make a data folder from pictures and a file of sentences."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from itm.app.data_options import changed
from itm.app.entry import run
from itm.utils.checks import check_choice, check_least, check_paths

# Options that change the features or the splits; a folder is continued only if they are equal.
SETTINGS = (
    "backbone", "revision", "size", "windows", "overlap", "regions", "dtype", "seed", "fractions",
)  # fmt: skip


def command(cfg: DictConfig) -> Path:
    """Write region features, boxes, ids and captions of all splits; continue after a kill.

    Returns:
        The folder.

    Raises:
        ValueError: the backbone does not exist, captions and pictures do not belong together, or
            the folder holds other files or features of other settings.
        FileNotFoundError: there are no pictures.
        ImportError: Pillow or the backbone's package is missing.
    """
    # Late, because they load torch, and `--help` should not wait for it.
    from itm.data.boxes import ORDERS
    from itm.features.backbones import backbone, check_backbone
    from itm.features.data_folder import building, is_complete
    from itm.features.drawn import draw_pictures
    from itm.features.extraction import extract_split, split_boxes
    from itm.features.partition import check_shares
    from itm.features.pictures import find_pictures
    from itm.features.plan import RECORD, describe_settings, make_plan, read_plan, write_plan
    from itm.features.store import check_output
    from itm.features.windows import windows
    from itm.utils.devices import find_device

    check_backbone(cfg.backbone, cfg.revision)
    check_output(cfg.dtype, cfg.regions)
    check_choice("box_order", cfg.box_order, ORDERS)
    check_shares(cfg.fractions, cfg.seed)
    _check_options(cfg)
    device = find_device(cfg.device)
    if cfg.images is None:
        cfg.images = "scenes_pictures"
        cfg.captions = str(draw_pictures(Path(cfg.images)))
        print(f"drew pictures to {cfg.images}, captions in {cfg.captions}")
    pictures = find_pictures(cfg.images)
    out = Path(cfg.out or f"{Path(cfg.images).expanduser().resolve()}_features").expanduser()
    plain: Any = OmegaConf.to_container(cfg)
    regions = windows(plain["windows"], cfg.overlap)
    options = {key: plain[key] for key in SETTINGS}
    if cfg.box_order != ORDERS[0]:  # records of earlier versions lack it
        options["box_order"] = cfg.box_order
    settings = describe_settings(pictures, cfg.captions, cfg.boxes, cfg.splits, options)
    look = f"; look at it: python -m itm.prepare data=flickr8k {shlex.quote(f'data.root={out}')}"
    if not cfg.overwrite and is_complete(out, RECORD, settings):
        print(f"{out} holds these features already{look if cfg.captions else ''}")
        return out
    with building(out, RECORD, settings, cfg.overwrite, resume=True) as folder:
        plan = read_plan(folder, settings)  # of an earlier, killed run
        splits, found = plan, dict[str, list[str]]()
        if splits is None:
            lists = (cfg.splits, cfg.fractions, cfg.seed)
            splits, found = make_plan(pictures, cfg.captions, *lists, cfg.workers, cfg.partial)
        boxes: Any = dict.fromkeys(splits, regions)
        if cfg.boxes is not None:
            order = (cfg.regions, cfg.box_order)
            boxes = split_boxes(cfg.boxes, splits, *order, pictures)
        network = backbone(cfg.backbone, cfg.size, cfg.revision).to(device)
        if plan is None:  # only now: until something is written, an error leaves no folder
            write_plan(folder, settings, splits, found)
        for split, names in splits.items():
            files = [pictures[name] for name in names]
            sizes = (cfg.dtype, cfg.batch_size, cfg.workers)
            extract_split(folder, split, files, network, boxes[split], *sizes)
    print(f"written to {out}{look if cfg.captions else ''}")
    return out


def _check_options(cfg: DictConfig) -> None:
    """Check numbers and paths, and that each option changes something.

    Raises:
        ValueError: a number is out of range, or another option leaves one without effect.
        FileNotFoundError: a file does not exist.
    """
    least = {"size": 1, "batch_size": 1, "workers": 0}
    check_least({name: cfg[name] for name in least}, least)
    lists = ("splits.train", "splits.dev", "splits.test")
    for owner, needless in (
        ("images", ("captions", "boxes", *lists) if cfg.images is None else ()),
        ("boxes", ("regions", "box_order") if cfg.boxes is None else ()),
    ):
        if found := changed(cfg, "extract", needless):
            raise ValueError(f"{found[0]} has no effect without {owner}=: give {owner}, too")
    if cfg.boxes is not None and (found := changed(cfg, "extract", ("windows", "overlap"))):
        raise ValueError(f"{found[0]} has no effect: boxes={cfg.boxes} are used instead of windows")
    given = {f"splits.{split}": path for split, path in cfg.splits.items()}
    check_paths({"captions": cfg.captions, "boxes": cfg.boxes, **given})


def main() -> None:
    """Console entry point."""
    run("extract", command)


if __name__ == "__main__":
    main()
