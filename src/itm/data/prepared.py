"""Make the files that models and losses need from the captions of the training split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from itm.data.layout import Split
from itm.relevance.cider_d import CiderIndex
from itm.text.concepts import Concepts
from itm.text.labels import Labels
from itm.text.vocabulary import Vocabulary


def write_prepared(
    kind: str,
    train: Split,
    folder: Path,
    min_count: int = 4,
    num_concepts: int = 300,
    num_labels: int = 500,
) -> Path:
    """Write one file into a data folder.

    Args:
        kind: "vocab" (words), "concepts" (of CVSE, with how often they occur together), "labels"
            (of CASC and the multi-label loss, counted by image) or "cider" (the CIDEr-D index).
        train: the training split.
        folder: where to write.
        min_count: how often a word of the vocabulary must occur.
        num_concepts: K of the concepts.
        num_labels: K of the labels.

    Returns:
        The file.

    Raises:
        ValueError: unknown kind.
    """
    captions, image = train.captions, train.caption_image
    makers: dict[str, tuple[str, Callable[[], Any]]] = {
        "vocab": ("vocab.json", lambda: Vocabulary.build(captions, min_count)),
        "concepts": ("concepts.json", lambda: Concepts.build(captions, num_concepts)),
        "labels": ("labels.json", lambda: Labels.build(captions, num_labels, caption_image=image)),
        "cider": ("cider.npz", lambda: CiderIndex(captions, image)),
    }
    if kind not in makers:
        raise ValueError(f"write=[{kind}]: choose from {', '.join(makers)}")
    name, make = makers[kind]
    make().save(folder / name)
    return folder / name
