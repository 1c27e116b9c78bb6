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
        ValueError: no data.root, or a split that cannot be used.
        FileNotFoundError: the folder has no split at all.
    """
    # Late, since they bring torch, which `--help` need not wait for.
    from itm.data.check import page
    from itm.data.layout import read_split
    from itm.data.prepared import write_prepared

    root = convert(cfg) if cfg["from"] else find_root(cfg.data, "the folder to check")
    per_image = cfg.data.captions_per_image
    print(page(root, per_image, [cfg.data.train, cfg.data.val, cfg.data.test]))
    train = read_split(root, cfg.data.train, per_image)
    out = Path(cfg.out or root)
    out.mkdir(parents=True, exist_ok=True)
    sizes = (cfg.data.min_count, cfg.data.num_concepts, cfg.data.num_labels, cfg.data.tokenizer)
    for kind in cfg.write:
        print(f"wrote {write_prepared(kind, train, out, *sizes)}")


def convert(cfg: DictConfig) -> Path:
    """Write the features of `source` and the captions of `captions` as a data folder.

    Raises:
        ValueError: an unknown format, a missing option, or captions of images without features.
    """
    from itm.features.convert import READERS, convert_features
    from itm.features.partition import partition
    from itm.features.sentences import read_sentences

    missing = [key for key in ("source", "captions", "out") if cfg[key] is None]
    if missing or cfg["from"] not in READERS:
        raise ValueError(
            f"from={cfg['from']}: choose from {', '.join(READERS)}, and give source=FILE_OR_FOLDER "
            f"captions=FILE out=FOLDER{' (missing: ' if missing else ''}{', '.join(missing)}"
            f"{')' if missing else ''}"
        )
    sentences = read_sentences(cfg.captions)
    captions, known = sentences.captions, sentences.splits
    splits = partition(list(captions), cfg.splits, known, cfg.fractions, cfg.seed, cfg.partial)
    records = READERS[cfg["from"]](cfg.source)
    return convert_features(records, splits, captions, cfg.out, cfg.regions, cfg.dtype)


@hydra.main(version_base="1.3", config_path=CONF, config_name="prepare")
def _main(cfg: DictConfig) -> None:
    command(cfg)


def main() -> None:
    """Console entry point."""
    run(_main)


if __name__ == "__main__":
    main()
