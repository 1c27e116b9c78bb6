"""`python -m itm.prepare`: check a data folder; write vocabulary, concepts, labels, CIDEr index."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from itm.app.data_options import changed
from itm.app.entry import run
from itm.app.splits import find_root

CONVERSION = (
    "source", "captions", "splits.train", "splits.dev", "splits.test", "fractions", "seed",
    "partial", "regions", "box_order", "dtype",
)  # fmt: skip


def command(cfg: DictConfig) -> None:
    """Convert features if asked to, report on every split, and write the requested files.

    Raises:
        ValueError: `data.root` is missing, a split cannot be used, or a file would be replaced.
        FileNotFoundError: the folder has no split at all.
    """
    # Late, because they load torch, and `--help` should not wait for it.
    from itm.data.check import page
    from itm.data.layout import read_split
    from itm.features.derived import write_derived

    if not cfg["from"] and (found := changed(cfg, "prepare", CONVERSION)):
        raise ValueError(f"{found[0]} is for a conversion: give from=tsv, arrays or hdf5 too")
    root = convert(cfg) if cfg["from"] else find_root(cfg.data, "the folder to check")
    per_image = cfg.data.captions_per_image
    print(page(root, per_image, [cfg.data.train, cfg.data.val, cfg.data.test]))
    train = read_split(root, cfg.data.train, per_image)
    if cfg.write:
        sizes = {
            "min_count": cfg.data.min_count,
            "num_concepts": cfg.data.num_concepts,
            "num_labels": cfg.data.num_labels,
            "tokenizer": cfg.data.tokenizer,
        }
        for path in write_derived(cfg.write, train, Path(cfg.out or root), sizes, cfg.overwrite):
            print(f"wrote {path}")


def convert(cfg: DictConfig) -> Path:
    """Write the features of `source` and the captions of `captions` as a data folder.

    Raises:
        ValueError: the format is unknown, an option is missing or out of its range, captions belong
            to images without features, or the folder holds other files.
        FileNotFoundError: a file does not exist.
    """
    from itm.features.convert import OTHERS, READERS, write_data_folder  # late, as above

    kind = cfg["from"]
    if kind in OTHERS:
        raise ValueError(f"from={kind}: {OTHERS[kind]}")
    missing = [key for key in ("source", "captions", "out") if cfg[key] is None]
    if missing or kind not in READERS:
        raise ValueError(
            f"from={kind}: choose from {', '.join(READERS)}, and give source=FILE_OR_FOLDER "
            f"captions=FILE out=FOLDER{' (missing: ' if missing else ''}{', '.join(missing)}"
            f"{')' if missing else ''}"
        )
    return write_data_folder(
        kind,
        cfg.source,
        cfg.captions,
        cfg.out,
        lists=cfg.splits,
        fractions=cfg.fractions,
        seed=cfg.seed,
        partial=cfg.partial,
        regions=cfg.regions,
        dtype=cfg.dtype,
        overwrite=cfg.overwrite,
        box_order=cfg.box_order,
    )


def main() -> None:
    """Console entry point."""
    run("prepare", command)


if __name__ == "__main__":
    main()
