"""Read word vectors from a .npy file or from a text file such as GloVe's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def word_vectors(
    words: Sequence[str], path: str | Path, seed: int = 0, missing: np.ndarray | None = None
) -> np.ndarray:
    """Read the vectors of words from a .npy file or a text file: (V, G) float32.

    A text file has one word and its numbers per line. The first line of a word counts; a line with
    a single number is a header. Words are looked up as written, case included. A word that is not
    found is looked up without '-', '.' and apostrophes and only up to a '/', as in CVSE. If that
    fails too, a hyphenated word gets the mean of its parts, and any other word its row of
    `missing`.

    Args:
        words: V words.
        path: the file.
        seed: of the default `missing`.
        missing: (V, G) rows for words without a vector; by default N(0, 1) numbers, as in CVSE.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a .npy file with another number of rows; a text file with none of the words,
            or with vectors of different widths.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no word vectors at {path}")
    if path.suffix == ".npy":
        table = np.load(path, allow_pickle=False)
        if table.ndim != 2 or len(table) != len(words):
            raise ValueError(
                f"{path} is {table.shape}, expected a row for each of the {len(words)} words"
            )
        return table.astype(np.float32)
    bare = [re.sub("[-.']", "", word).split("/")[0] for word in words]
    wanted = {*words, *bare, *(part for word in words for part in word.split("-"))} - {""}
    found: dict[str, np.ndarray] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            word, _, numbers = line.rstrip().partition(" ")
            if word in wanted and word not in found and " " in numbers:
                try:
                    found[word] = np.array(numbers.split(" "), np.float32)
                except ValueError:  # GloVe 840B has words with blanks: "at name@domain.com"
                    continue
    if not found:
        raise ValueError(
            f"{path} has a vector for none of the {len(words)} words; expected lines 'word 0.1 0.2'"
        )
    widths = {len(vector) for vector in found.values()}
    if len(widths) != 1:
        raise ValueError(f"{path} has vectors of widths {sorted(widths)} for these words")
    size = (len(words), widths.pop())
    if missing is None or missing.shape != size:
        missing = np.random.default_rng(seed).standard_normal(size)
    out = missing.copy()
    for k, word in enumerate(words):
        parts = [found[part] for part in word.split("-") if part in found]
        vector = found.get(word, found.get(bare[k]))
        if vector is not None:
            out[k] = vector
        elif parts:
            out[k] = np.mean(parts, 0)
    return out.astype(np.float32)
