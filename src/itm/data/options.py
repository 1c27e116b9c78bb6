"""Options of `RegionDataModule`, in three groups of fields.

`conf/data/base.yaml` lists the same names without the groups.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from itm.data.layout import Split
from itm.metrics.protocols import find_protocol
from itm.text.tokenizers import TOKENIZERS
from itm.text.vocabulary import Tokens
from itm.utils.checks import check_choice, check_least

NEEDS = ("labels", "concepts", "relevance")


def _check_numbers(options: object, **least: int) -> None:
    """Check that options are whole numbers and not too small; None passes where it is the default.

    Args:
        options: a group of options.
        least: name -> smallest value.

    Raises:
        ValueError: an option is not a whole number, or is too small.
    """
    values = {f"data.{name}": getattr(options, name) for name in least}
    for name, value in values.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        default = getattr(type(options), name.removeprefix("data."))
        if not whole and (value is not None or default is not None):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
    check_least(values, {f"data.{name}": x for name, x in least.items()})


class SplitSource(Protocol):
    """Replace the captions of a split, such as `itm.phrases.PhraseSource` does."""

    def split(self, split: Split, train: bool = False) -> Split:
        """Return the split with these captions; training may leave some out."""
        ...


@dataclass(kw_only=True, eq=False, repr=False)
class Splits:
    """Choose the images and captions to read."""

    root: str | Path = field(kw_only=False)
    """Folder of the files."""
    train: str = "train"
    """Name of the training split."""
    val: str = "dev"
    """Name of the validation split."""
    test: str = "test"
    """Name of the test split, such as "test" or "testall"."""
    protocol: str = "full"
    """How the test split is evaluated: "f30k_1k", "coco_1k", "coco_5k" or "full"."""
    captions_per_image: int | None = None
    """Captions per image in the files; None = inferred."""
    fraction: float = 1.0
    """Train on the first part of the captions, 0 < fraction <= 1."""
    noise_ratio: float = 0.0
    """Share of the training captions whose images are shuffled among each other."""
    noise_by: str = "caption"
    """What `noise_ratio` shuffles: "caption", single captions (NCR); "image", images with all their
    captions (DECL)."""
    noise_file: str | Path | None = None
    """Index file of a paper on noisy correspondence in place of `noise_ratio`, see
    `itm.data.noise.read_noise`."""
    limit: int | None = None
    """At most this many images of every split."""
    val_images: int | None = None
    """At most this many images in validation."""
    phrases: SplitSource | None = None
    """Train on phrases and the regions they mean instead of captions."""

    def __post_init__(self) -> None:
        for name in ("train", "val", "test"):
            if not isinstance(split := getattr(self, name), str) or not split:
                raise ValueError(
                    f"data.{name} must be the name of a split, such as dev, got {split!r}; "
                    "trainer.limit_val_batches=0 trains without validation, test=false without test"
                )
        find_protocol(self.protocol)
        if not 0 < self.fraction <= 1:
            raise ValueError(
                f"data.fraction={self.fraction} must be above 0 and at most 1 (0.1 = 10 %)"
            )
        if not 0 <= self.noise_ratio <= 1:
            raise ValueError(f"data.noise_ratio={self.noise_ratio} must be between 0 and 1")
        check_choice("data.noise_by", self.noise_by, ("caption", "image"))
        if self.noise_ratio and self.noise_file is not None:
            raise ValueError(
                f"data.noise_ratio={self.noise_ratio} and data.noise_file={self.noise_file} say "
                "twice which captions are noisy: give one of them"
            )
        if self.phrases is not None and (self.noise_ratio or self.noise_file is not None):
            raise ValueError(
                "data.noise_ratio and data.noise_file give captions another image, but phrases are "
                "matched with labelled regions of their own: leave them out"
            )
        _check_numbers(self, limit=1, val_images=1, captions_per_image=1)
        root = Path(self.root).expanduser()
        if not root.is_dir():
            found = "not a folder" if root.exists() else "no such folder"
            raise FileNotFoundError(
                f"data.root={self.root}: {found}; give the one that holds "
                f"{self.train}_ims.npy, {self.train}_caps.txt and the files of the other splits "
                "(`python -m itm.prepare data.root=DIR` checks it)"
            )


@dataclass(kw_only=True, eq=False, repr=False)
class WordLists:
    """Choose the vocabulary, labels and concepts."""

    vocab: str | Path | Tokens | None = None
    """Published vocabulary JSON, or a vocabulary; None = built from the training captions."""
    min_count: int = 4
    """How often a word must occur to enter a built vocabulary (published: 4)."""
    tokenizer: str | None = None
    """How a caption is split into words: "treebank" (published), "whitespace", or "characters" for
    scripts without blanks between words. None = as the given vocabulary, "treebank" for a built
    one."""
    cache_words: bool = True
    """Keep the words of splits of 20,000 captions or more on disk, so that later runs need not
    split them again, see `itm.data.word_cache`."""
    max_unknown: float = 0.5
    """Share of unknown words in the training captions above which training is refused; 1 = any."""
    labels: str | Path | None = None
    """File of the label vocabulary, such as the original's vocab_tag.json; None = built. Either way
    the labels are counted in the training captions."""
    num_labels: int = 500
    """Size of a built label vocabulary."""
    concepts: str | Path | None = None
    """File or folder of the concept vocabulary (`itm.text.Concepts.load`); None = built."""
    num_concepts: int = 300
    """Size of a built concept vocabulary."""
    other_captions: bool = False
    """Accept files of `itm.prepare` that were made from other captions."""

    def __post_init__(self) -> None:
        _check_numbers(self, min_count=1, num_labels=1, num_concepts=1)
        if not 0 < self.max_unknown <= 1:
            raise ValueError(
                f"data.max_unknown={self.max_unknown} must be above 0 and at most 1 (1 = any share)"
            )
        if self.tokenizer is not None:
            check_choice("data.tokenizer", self.tokenizer, tuple(TOKENIZERS))


@dataclass(kw_only=True, eq=False, repr=False)
class Loading:
    """Choose what a batch holds and how it is read."""

    batch_size: int = 128
    """Pairs (anchors, with several sentences) per process and step."""
    eval_batch_size: int = 256
    """Images or captions encoded at once in evaluation."""
    sentences: int = 1
    """Captions per image in a batch."""
    drop_last: bool = False
    """Leave out the last incomplete training batch."""
    needs: Collection[str] = ()
    """What model and loss read besides features and words: "labels", "concepts" (of CVSE),
    "relevance" (CIDEr-D of the batch)."""
    vectors: bool = False
    """Read precomputed sentence vectors, `{split}_caps.npy` (M, F)."""
    resident: bool | str = False
    """Keep the features of whole splits on the device (`itm.data.resident`): True keeps float16,
    and other types as float32; "bfloat16" and "float16" convert."""
    region_drop: float = 0.0
    """Share of the regions that each training image leaves out, see `itm.data.augmentation`."""
    word_drop: float = 0.0
    """Share of the words that each training caption masks, replaces or leaves out."""
    workers: int = 0
    """Loader processes."""
    pin_memory: bool = False
    """Page-locked batches, for GPUs."""
    seed: int = 0
    """Seed of the training order, of neighbours and of noise."""

    def __post_init__(self) -> None:
        _check_numbers(self, batch_size=1, eval_batch_size=1, sentences=1, workers=0, seed=0)
        for name, rate in (("region_drop", self.region_drop), ("word_drop", self.word_drop)):
            if not 0 <= rate < 1:
                raise ValueError(f"data.{name}={rate} must be at least 0 and below 1 (0.2 = 20 %)")
        if self.word_drop and self.vectors:
            raise ValueError(
                f"data.word_drop={self.word_drop} leaves out words, but text=vectors reads vectors "
                "of whole sentences: set data.word_drop=0"
            )
        if self.region_drop and getattr(self, "phrases", None) is not None:
            raise ValueError(
                f"data.region_drop={self.region_drop} leaves out regions, but phrases are matched "
                "with labelled regions: set data.region_drop=0"
            )
        if isinstance(self.needs, str):
            raise ValueError(f"needs={self.needs!r} must be a list of names: [{self.needs!r}]")
        unknown = sorted(set(self.needs) - set(NEEDS))
        if unknown:
            raise ValueError(f"needs={unknown}: expected some of {', '.join(NEEDS)}")
