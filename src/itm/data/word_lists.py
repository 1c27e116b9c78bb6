"""The word lists of a data module: read from a file, or built from the training captions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from itm.text.vocabulary import Tokens, Vocabulary

if TYPE_CHECKING:
    from itm.text.concepts import Concepts
    from itm.text.labels import Labels

ReadCaptions = Callable[[], list[str]]  # read only where a list is built


def find_vocabulary(
    given: str | Path | Tokens | None, captions: ReadCaptions, min_count: int
) -> Tokens:
    """The given vocabulary, or that of a file, or the words that occur `min_count` times."""
    if given is None:
        return Vocabulary.build(captions(), min_count)
    return Vocabulary.load(given) if isinstance(given, (str, Path)) else given


def find_labels(
    file: str | Path | None, captions: list[str], caption_image: np.ndarray, size: int
) -> Labels:
    """The labels of a file, or the `size` most frequent ones; counted in the captions."""
    from itm.text.labels import Labels  # late: only some models and losses need it

    if file is None:
        return Labels.build(captions, size, caption_image=caption_image)
    labels = Labels.load(file)
    labels.count(captions, caption_image)
    return labels


def find_concepts(file: str | Path | None, captions: ReadCaptions, size: int) -> Concepts:
    """The concepts of a file or folder, or the `size` most frequent ones.

    Raises:
        ValueError: a file without the counts that the concepts' graph is made of.
    """
    from itm.text.concepts import Concepts  # late: only CVSE needs it

    if file is None:
        return Concepts.build(captions(), size)
    concepts = Concepts.load(file)
    if concepts.adjacency is None:
        raise ValueError(
            f"data.concepts={file} holds no counts, which the concepts' graph is made of: give the "
            "original's folder, or what itm.prepare writes"
        )
    return concepts
