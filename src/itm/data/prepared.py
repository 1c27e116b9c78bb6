"""Make the files that models and losses need from the captions of the training split."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from itm.data.collate import PREPARED, relevance_index
from itm.data.layout import Split
from itm.data.word_cache import cached_words
from itm.data.word_lists import build_vocabulary
from itm.text.concepts import Concepts
from itm.text.labels import Labels
from itm.text.made_from import hash_captions
from itm.utils.checks import check_choice


def write_prepared(
    kind: str,
    train: Split,
    folder: Path,
    min_count: int = 4,
    num_concepts: int = 300,
    num_labels: int = 500,
    tokenizer: str | None = None,
) -> Path:
    """Write one file into a data folder; it records the hash of the training captions.

    Args:
        kind: "vocab" (words), "concepts" (of CVSE, with their co-occurrence), "labels"
            (of CASC and the multi-label loss, counted by image) or "cider" (the CIDEr-D index).
        train: the training split.
        folder: where to write.
        min_count: how often a word of the vocabulary must occur.
        num_concepts: K of the concepts.
        num_labels: K of the labels.
        tokenizer: how captions are split, see `itm.text.Vocabulary`; None = "treebank".

    Returns:
        The file.

    Raises:
        ValueError: unknown kind, or no word occurs often enough.
    """
    captions, image, split = train.captions, train.caption_image, tokenizer or "treebank"
    words = partial(cached_words, captions, split)
    makers: dict[str, tuple[str, Callable[[], Any]]] = {
        "vocab": ("vocab.json", lambda: build_vocabulary(words(), min_count)),
        "concepts": (
            "concepts.json",
            lambda: Concepts.build(words(), num_concepts, tokenizer=split),
        ),
        "labels": (
            "labels.json",
            lambda: Labels.build(words(), num_labels, caption_image=image, tokenizer=split),
        ),
        "cider": (PREPARED, lambda: relevance_index(train, len(captions), split)),
    }
    check_choice("write", kind, makers)
    name, make = makers[kind]
    if kind == "cider":
        make().save(folder / name)
    else:
        make().save(folder / name, hash_captions(captions))
    return folder / name
