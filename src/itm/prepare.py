"""`python -m itm.prepare`: check a data folder; vocabulary, concepts, labels and CIDEr index."""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

from itm.app.config import CONF
from itm.app.entry import run
from itm.app.splits import find_root


def command(cfg: DictConfig) -> None:
    """Report on every split of a folder, after a conversion, and write the files asked for.

    Raises:
        ValueError: no data.root, a split that cannot be used, or a file that would be replaced.
        FileNotFoundError: the folder has no split at all.
    """
    # Late, since they bring torch, which `--help` need not wait for.
    from itm.data.check import page
    from itm.data.layout import read_split
    from itm.features.derived import write_derived

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
        ValueError: an unknown format, a missing option, captions of images without features, or a
            folder that holds other files.
    """
    from itm.features.convert import OTHERS, READERS, write_data_folder

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
        cfg.splits,
        cfg.fractions,
        cfg.seed,
        cfg.partial,
        cfg.regions,
        cfg.dtype,
        cfg.overwrite,
    )


@hydra.main(version_base="1.3", config_path=CONF, config_name="prepare")
def _main(cfg: DictConfig) -> None:
    command(cfg)


def main() -> None:
    """Console entry point."""
    run(_main)


if __name__ == "__main__":
    main()
