"""`python -m itm.prepare`: check a data folder; vocabulary, concepts, labels and CIDEr index."""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from itm.app.config import CONF, instantiate
from itm.app.entry import run
from itm.data import check
from itm.data.layout import Split, read_split
from itm.text.vocabulary import Vocabulary


def prepare(cfg: DictConfig) -> None:
    """Report on every split of a folder, after a conversion, and write the files asked for.

    Raises:
        ValueError: no data.root, or a split that cannot be used.
        FileNotFoundError: the folder has no split at all.
    """
    root = convert(cfg) if cfg["from"] else find_root(cfg)
    names = [cfg.data.train, cfg.data.val, cfg.data.test]
    print(check.page(root, cfg.data.captions_per_image, names))
    train = read_split(root, cfg.data.train, cfg.data.captions_per_image)
    out = Path(cfg.out or root)
    out.mkdir(parents=True, exist_ok=True)
    for what in cfg.write:
        path = write(what, train, cfg.data, out)
        print(f"wrote {path}")


def find_root(cfg: DictConfig) -> Path:
    """The folder to check.

    Raises:
        ValueError: no data.root.
    """
    if OmegaConf.is_missing(cfg.data, "root"):
        raise ValueError("give data.root=DIR, the folder to check")
    root = instantiate(cfg.data.root) if isinstance(cfg.data.root, DictConfig) else cfg.data.root
    return Path(root).expanduser()


def convert(cfg: DictConfig) -> Path:
    """Write the features of `source` in the layout of a data folder.

    Raises:
        ValueError: an unknown format, a missing option, or features and captions that do not meet.
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
    names, known = list(sentences.captions), sentences.splits
    splits = partition(names, cfg.splits, known, cfg.fractions, cfg.seed)
    records = READERS[cfg["from"]](cfg.source)
    own = sentences.captions
    return convert_features(records, splits, own, cfg.out, cfg.regions, cfg.dtype)


def write(what: str, train: Split, data: DictConfig, out: Path) -> Path:
    """Build one file from the training captions.

    Raises:
        ValueError: unknown kind of file.
    """
    if what == "vocab":
        path = out / "vocab.json"
        Vocabulary.build(train.captions, data.min_count).save(path)
    elif what == "concepts":
        from itm.text.concepts import Concepts

        path = out / "concepts.json"
        Concepts.build(train.captions, data.num_concepts).save(path)
    elif what == "labels":
        from itm.text.labels import Labels

        path = out / "labels.json"
        Labels.build(train.captions, data.num_labels, caption_image=train.caption_image).save(path)
    elif what == "cider":
        from itm.relevance import CiderIndex

        path = out / "cider.npz"
        CiderIndex(train.captions, train.caption_image).save(path)
    else:
        raise ValueError(f"write=[{what}]: choose from vocab, concepts, labels, cider")
    return path


@hydra.main(version_base="1.3", config_path=CONF, config_name="prepare")
def _main(cfg: DictConfig) -> None:
    prepare(cfg)


def main() -> None:
    """Console entry point."""
    run(_main)


if __name__ == "__main__":
    main()
