"""Read word vectors from a .npy file or from a text file such as GloVe's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from itm.utils.contents import describe_file
from itm.utils.log_files import say

WARN = 0.5  # the share of words without a vector above which it is called a warning


def word_vectors(
    words: Sequence[str], path: str | Path, seed: int = 0, missing: np.ndarray | None = None
) -> np.ndarray:
    """Read the vectors of words from a .npy file or a text file: (V, G) float32.

    A text file has one word and its numbers per line. The first line of a word counts; a first
    line with a single number is a header. Words are looked up as written, case included. A word
    that is not found is looked up without '-', '.' and apostrophes and only up to a '/', as in
    CVSE. If that fails too, a hyphenated word gets the mean of its parts, and any other word its
    row of `missing`.

    Args:
        words: V words.
        path: the file.
        seed: seed of the default `missing`.
        missing: (V, G) rows for words without a vector; by default N(0, 1) numbers, as in CVSE.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a .npy file with another number of rows; a text file with none of the words,
            or with vectors of different widths; a damaged file, or a value that is not finite.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no word vectors at {path}")
    if path.suffix == ".npy":
        return _read_table(path, len(words))
    bare = [re.sub("[-.']", "", word).split("/")[0] for word in words]
    wanted = {*words, *bare, *(part for word in words for part in word.split("-"))} - {""}
    found: dict[str, np.ndarray] = {}
    twice: set[str] = set()
    with path.open(encoding="utf-8-sig", errors="replace") as lines:  # GloVe 840B has broken bytes
        for count, line in enumerate(lines):
            word, _, numbers = line.rstrip().replace("\t", " ").partition(" ")
            row = numbers.split() if word in wanted else ()
            if row and (count or len(row) > 1):
                try:
                    vector = np.array(row, np.float32)
                except ValueError:  # GloVe 840B has words with blanks: "at name@domain.com"
                    continue
                if not np.array_equal(found.setdefault(word, vector), vector):
                    twice.add(word)
    if not found:
        kind = describe_file(path)
        hint = f"the file is {kind}" if kind else "expected lines 'word 0.1 0.2'"
        raise ValueError(f"{path} has a vector for none of the {len(words)} words; {hint}")
    widths = {len(vector) for vector in found.values()}
    if len(widths) != 1:
        raise ValueError(f"{path} has vectors of widths {sorted(widths)} for these words")
    wrong = next((word for word, vector in found.items() if not np.isfinite(vector).all()), None)
    if wrong is not None:
        raise ValueError(f"{path}: the vector of {wrong!r} holds NaN or infinite values")
    if twice:
        say(
            f"warning: {path} has several vectors for {len(twice)} words, such as "
            f"{min(twice)!r}; the first of each is taken"
        )
    size = (len(words), widths.pop())
    if missing is None or missing.shape != size:
        missing = np.random.default_rng(seed).standard_normal(size)
    out, without = missing.copy(), list[str]()
    for k, word in enumerate(words):
        parts = [found[part] for part in word.split("-") if part in found]
        own = found.get(word, found.get(bare[k]))
        if own is not None:
            out[k] = own
        elif parts:
            out[k] = np.mean(parts, 0)
        else:
            without.append(word)
    if plain := [word for word in without if not re.fullmatch("<[a-z]+>", word)]:
        warning = "warning: " if len(without) > WARN * len(words) else ""
        say(
            f"{warning}{path} has no vector for {len(plain)} of {len(words)} words, such as "
            f"{', '.join(map(repr, plain[-3:]))}"
        )
    return out.astype(np.float32)


def _read_table(path: Path, rows: int) -> np.ndarray:
    """Read vectors (V, G) from a .npy file."""
    try:
        table: np.ndarray = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged header can raise anything
        raise ValueError(f"{path} is not a complete .npy file of numbers ({error})") from error
    if not isinstance(table, np.ndarray) or table.ndim != 2 or len(table) != rows:
        shape = getattr(table, "shape", "an archive")
        raise ValueError(f"{path} is {shape}, expected a row for each of the {rows} words")
    if table.dtype.kind not in "fiu" or not np.isfinite(table).all():
        raise ValueError(f"{path} holds {table.dtype} values that are not all finite numbers")
    return table.astype(np.float32)
