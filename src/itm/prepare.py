"""`python -m itm.prepare`: check a data folder; vocabulary, concepts, labels and CIDEr index."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf

from itm.cli import run
from itm.config import CONF, instantiate
from itm.layout import Split, read_split
from itm.text import Vocabulary, tokenize

SPLITS = ("train", "dev", "val", "test", "testall")


def prepare(cfg: DictConfig) -> None:
    """Report on every split of a folder and write the files asked for.

    Raises:
        ValueError: no data.root, or a split that cannot be used.
        FileNotFoundError: the folder has no split at all.
    """
    if OmegaConf.is_missing(cfg.data, "root"):
        raise ValueError("give data.root=DIR, the folder to check")
    root = instantiate(cfg.data.root) if isinstance(cfg.data.root, DictConfig) else cfg.data.root
    root = Path(root).expanduser()
    found = [name for name in SPLITS if (root / f"{name}_caps.txt").is_file()]
    train = read_split(root, cfg.data.train, cfg.data.captions_per_image)
    for name in dict.fromkeys([cfg.data.train, *found]):
        print(describe(read_split(root, name, cfg.data.captions_per_image)))
    out = Path(cfg.out or root)
    out.mkdir(parents=True, exist_ok=True)
    for what in cfg.write:
        path = write(what, train, cfg.data, out)
        print(f"wrote {path}")


def describe(split: Split, sample: int = 200) -> str:
    """A page on one split: counts, shapes, feature statistics, captions that look broken."""
    rows = np.linspace(0, split.num_images - 1, min(sample, split.num_images)).astype(int)
    block = split.images(np.unique(rows))
    norms = np.linalg.norm(block, axis=-1)
    words = [tokenize(caption) for caption in split.captions]
    lengths = np.array([len(w) for w in words])
    per_image = Counter(np.bincount(split.caption_image, minlength=split.num_images).tolist())
    lines = [
        f"{split.folder / split.name}: {split.num_images} images, {len(split.captions)} captions "
        f"({', '.join(f'{n} images with {k}' for k, n in sorted(per_image.items()))})",
        f"  features {split.features.dtype} {split.features.shape}, region norm mean "
        f"{norms.mean():.2f}, {(norms == 0).mean():.1%} zero regions ({len(block)} images read)",
        f"  caption length mean {lengths.mean():.1f}, max {lengths.max()} words; "
        f"ids {'yes' if split.ids else 'no'}, boxes {'yes' if split.boxes is not None else 'no'}",
    ]
    return "\n".join(lines + [f"  look at {x}" for x in suspicious(split.captions, words)])


def suspicious(captions: list[str], words: list[list[str]], most: int = 5) -> list[str]:
    """Captions that usually mean a broken file: bytes literals, very short or very long ones."""
    found = []
    for number, (caption, tokens) in enumerate(zip(captions, words, strict=True), 1):
        if caption.startswith(("b'", 'b"')):
            found.append(f"line {number}: a Python bytes literal, {caption[:40]!r}")
        elif len(tokens) < 3:
            found.append(f"line {number}: {len(tokens)} words, {caption[:40]!r}")
        elif len(tokens) > 100:
            found.append(f"line {number}: {len(tokens)} words")
        elif "\ufffd" in caption:
            found.append(f"line {number}: a replacement character, {caption[:40]!r}")
    more = [f"{len(found) - most} more such lines"] if len(found) > most else []
    return found[:most] + more


def write(what: str, train: Split, data: DictConfig, out: Path) -> Path:
    """Build one file from the training captions.

    Raises:
        ValueError: unknown kind of file.
    """
    if what == "vocab":
        path = out / "vocab.json"
        Vocabulary.build(train.captions, data.min_count).save(path)
    elif what == "concepts":
        from itm.concepts import Concepts

        path = out / "concepts.json"
        Concepts.build(train.captions, data.num_concepts).save(path)
    elif what == "labels":
        from itm.concepts import Labels

        path = out / "labels.json"
        Labels.build(train.captions, data.num_labels).save(path)
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
