"""The split that a command works on, and what is read from its folder."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from itm.app.config import instantiate
from itm.data.layout import Split, read_split
from itm.metrics.eccv import Tables, load_tables
from itm.metrics.pmrp import category_codes


def find_split(cfg: DictConfig) -> Split:
    """The split to score.

    Raises:
        ValueError: no data.root.
    """
    if OmegaConf.is_missing(cfg.data, "root"):
        raise ValueError("this data set needs data.root=DIR, the folder with its test split")
    root = instantiate(cfg.data.root) if isinstance(cfg.data.root, DictConfig) else cfg.data.root
    name = cfg.data.split or cfg.data.test
    split = read_split(root, name, cfg.data.captions_per_image, cfg.data.protocol)
    return split.head(cfg.data.limit)


def split_tables(split: Split) -> Tables:
    """`load_tables` for the scores of a split.

    Raises:
        FileNotFoundError: they are not installed.
        ValueError: another split than COCO 5K.
    """
    tables = load_tables()
    images, captions = len(tables.image_ids), len(tables.caption_ids)
    if (split.num_images, len(split.captions)) != (images, captions):
        raise ValueError(
            f"eccv=true judges COCO's split testall, {images} images and {captions} captions; "
            f"split {split.name} of {split.folder} has {split.num_images} and "
            f"{len(split.captions)}"
        )
    return tables


def split_codes(instances: str | Path, split: Split) -> np.ndarray:
    """`category_codes` of the images of a COCO split, whose ids hold their numbers.

    Raises:
        ValueError: the split has no ids, or they hold no COCO image number.
    """
    numbers = [re.findall(r"\d+", name)[-1:] for name in split.ids or []]
    if not numbers or not all(numbers):
        raise ValueError(
            f"PMRP needs the COCO number of every image: {split.name}_ids.txt in {split.folder} "
            "with one per line, such as 391895 or COCO_val2014_000000391895.jpg"
        )
    return category_codes(instances, [int(number) for (number,) in numbers])
