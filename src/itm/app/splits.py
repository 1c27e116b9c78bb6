"""Find the data folder and the split of a command, and the judgements of its images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from itm.app.config import instantiate
from itm.utils.log_files import say

if TYPE_CHECKING:
    import numpy as np

    from itm.data.layout import Split
    from itm.metrics.eccv import Tables

# Imports that load torch are late, so that `--help` does not wait for them.


def find_root(data: DictConfig, what: str) -> Path:
    """Find the folder of a data set; write it first if the data is generated.

    Args:
        data: the group `data` of a configuration.
        what: content of the folder, for the message.

    Raises:
        ValueError: `data.root` is missing.
    """
    if OmegaConf.is_missing(data, "root"):
        raise ValueError(f"this data set needs data.root=DIR, {what}")
    root = instantiate(data.root) if isinstance(data.root, DictConfig) else data.root
    return Path(root).expanduser()


def find_split(cfg: DictConfig) -> Split:
    """Read the split to score: `data.split`, or the data set's test split.

    The protocol of the data set is that of its test split. A part of a split (`data.limit`), and
    another split of another size, is scored by protocol "full", for which all its captions are
    read, as in training. `protocol=` decides instead if it is given.

    Raises:
        ValueError: `data.root` is missing.
    """
    from itm.data.layout import read_split
    from itm.metrics.protocols import is_defined

    root = find_root(cfg.data, "the folder with its test split")
    name, limit = cfg.data.split or cfg.data.test, cfg.data.limit
    own = cfg.data.protocol if limit is None else "full"
    asked = cfg.get("protocol")
    split = read_split(root, name, cfg.data.captions_per_image, asked or own).head(limit)
    sizes = split.num_images, len(split.captions)
    if asked is None and name != cfg.data.test and not is_defined(own, *sizes):
        split = read_split(root, name, cfg.data.captions_per_image).head(limit)
    return split


def find_scored(cfg: DictConfig) -> Split:
    """Read the split of `find_split`; with data=phrases, its captions are phrases as in training.

    Raises:
        FileNotFoundError: there are no phrases.
        ValueError: as for `find_split` and `itm.phrases.read_phrases`.
    """
    return _with_phrases(cfg, find_split(cfg))


def _with_phrases(cfg: DictConfig, split: Split) -> Split:
    source = cfg.data.get("phrases")
    return split if source is None else instantiate(source).split(split)


def find_bank(cfg: DictConfig, split: Split) -> Split | None:
    """Read the split whose queries are the bank of `rerank=`; None without `rerank_bank`.

    Raises:
        ValueError: it is the split that is scored.
    """
    from itm.data.layout import read_split

    if cfg.rerank_bank is None:
        return None
    name = cfg.data[cfg.rerank_bank]
    if name == split.name:
        raise ValueError(
            f"rerank_bank={cfg.rerank_bank} is split {name}, which is scored: leave rerank_bank "
            "out to use its own queries, or choose another split"
        )
    root = find_root(cfg.data, "the folder with the split of the bank")
    bank = read_split(root, name, cfg.data.captions_per_image)
    return _with_phrases(cfg, bank.head(cfg.rerank_bank_images))


def split_tables(split: Split, folder: str | Path | None = None) -> Tables:
    """Load the ECCV Caption tables for the scores of a split (`eccv=true` or `eccv=FOLDER`).

    Raises:
        FileNotFoundError: the tables are missing.
        ValueError: the split does not hold the images of the tables in their order.
    """
    from itm.metrics.eccv import check_order, load_tables

    tables = load_tables(folder)
    images, captions = len(tables.image_ids), len(tables.caption_ids)
    if (split.num_images, len(split.captions)) != (images, captions):
        raise ValueError(
            f"eccv=true judges COCO's split testall, {images} images and {captions} captions; "
            f"split {split.name} of {split.folder} has {split.num_images} and "
            f"{len(split.captions)} (protocol=coco_5k takes the first five captions of each image)"
        )
    try:
        known = check_order(tables, split.ids)
    except ValueError as error:
        raise ValueError(f"split {split.name} of {split.folder}: {error}") from error
    if not known and split.name in ("train", "dev", "val"):
        raise ValueError(f"eccv=true judges COCO's test images, not those of split {split.name}")
    if not known:
        say(
            f"eccv: {split.name}_ids.txt does not give COCO's numbers, so the order of the images "
            "is taken to be that of SCAN's testall"
        )
    return tables


def split_codes(instances: str | Path, split: Split) -> np.ndarray:
    """Read the object categories (N, K) of a COCO split by the image numbers in its ids (`pmrp=`).

    Images without categories, which are few in COCO, are counted on the terminal.

    Raises:
        ValueError: the split has no ids, an id has no number, two have the same one, all seem to be
            numbers of rows, or no image has categories.
    """
    from itm.metrics.pmrp import category_codes

    numbers = [re.findall(r"\d+", name)[-1:] for name in split.ids or []]
    if not numbers or not all(numbers):
        raise ValueError(
            f"PMRP needs the COCO number of every image: {split.name}_ids.txt in {split.folder} "
            "with one per line, such as 391895 or COCO_val2014_000000391895.jpg"
        )
    ids, found = split.ids or [], [int(number) for (number,) in numbers]
    first: dict[int, str] = {}
    for name, number in zip(ids, found, strict=True):
        if number in first:
            raise ValueError(
                f"pmrp={instances}: {first[number]!r} and {name!r} of {split.name}_ids.txt both "
                f"end in {number}, expected COCO's number of each image"
            )
        first[number] = name
    if all(name.isdecimal() for name in ids) and max(found) < len(split.captions):
        raise ValueError(
            f"pmrp={instances}: {split.name}_ids.txt in {split.folder} seems to hold numbers of "
            f"rows ({ids[0]} to {ids[-1]}), expected COCO's number of each image, such as 391895"
        )
    codes = category_codes(instances, found)
    known = int(codes.any(1).sum())
    if not known:
        raise ValueError(
            f"pmrp={instances} has no categories of the images of split {split.name} "
            f"({ids[0]}, ...): give the instances of COCO that these images are from"
        )
    if known < len(codes):
        say(
            f"pmrp: {known} of {len(codes)} images of {split.name} have categories in "
            f"{Path(instances).name}; the others are left out"
        )
    return codes
