"""Keep the words of large caption files on disk, so that only the first run splits them.

A file is found by a hash of everything that decides its content: the captions, the tokeniser and
the versions of what splits them. Other captions have another file, so none is ever out of date.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np

from itm.scenes.corpus import cache_root
from itm.text.made_from import hash_captions
from itm.text.words import CaptionWords, Ragged, split_captions
from itm.utils.archive import read_npz
from itm.utils.files import replacing
from itm.utils.log_files import say

VERSION = 1  # part of every file's name; increase it when `itm.text.tokenizers` splits differently
FEWEST = 20_000  # captions; fewer are split in less than a second
MOST = 8  # files; the ones that were not used for longest are removed
ARRAYS = ("words", "numbers", "lengths")


def cached_words(captions: Sequence[str], tokenizer: str, cache: bool = True) -> CaptionWords:
    """Split captions, or read their words from an earlier run.

    Several processes may do this at once: each writes a whole file, all of the same content. A
    damaged file is written again; if the folder cannot be written, the captions are split each
    time.

    Args:
        captions: the captions.
        tokenizer: how they are split, see `itm.text.Vocabulary`.
        cache: False = neither read nor write a file.
    """
    if not cache or len(captions) < FEWEST:
        return split_captions(captions, tokenizer)
    path = cache_folder() / f"{_key(captions, tokenizer)}.npz"
    if path.is_file():
        try:
            found = _read(path, tokenizer, len(captions))
        except (OSError, ValueError) as error:
            say(f"splitting {len(captions)} captions again: {error}")
        else:
            with suppress(OSError):
                path.touch()  # the time of the last use
            return found
    words = split_captions(captions, tokenizer)
    try:
        _write(path, words)
        _remove_oldest(path.parent)
    except OSError as error:
        say(f"the words of {len(captions)} captions are not kept for later runs: {error}")
    return words


def cache_folder() -> Path:
    """Return the folder of the files, in `itm.scenes.corpus.cache_root`."""
    return cache_root() / "words"


def _key(captions: Sequence[str], tokenizer: str) -> str:
    versions = VERSION, version("nltk"), unicodedata.unidata_version
    facts = f"{versions} {tokenizer} {len(captions)} {hash_captions(captions)}"
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


def _write(path: Path, found: CaptionWords) -> None:
    numbers, lengths = found.numbers.values, found.numbers.lengths
    with replacing(path) as file:
        np.savez(
            file,
            words=np.frombuffer("\n".join(found.words).encode("utf-8", "surrogatepass"), np.uint8),
            numbers=numbers.astype(np.min_scalar_type(len(found.words))),
            lengths=lengths.astype(np.min_scalar_type(lengths.max())),
        )


def _read(path: Path, tokenizer: str, captions: int) -> CaptionWords:
    """Read a file, whose archive holds checksums.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged.
    """
    found = read_npz(path)
    if sorted(found) != sorted(ARRAYS) or any(
        x.ndim != 1 or x.dtype.kind != "u" for x in found.values()
    ):
        raise ValueError(f"{path} does not hold {', '.join(ARRAYS)}")
    words = found["words"].tobytes().decode("utf-8", "surrogatepass").split("\n")
    numbers, lengths = (found[name].astype(np.int32) for name in ARRAYS[1:])
    fits = len(lengths) == captions and lengths.sum(dtype=np.int64) == len(numbers)
    if not fits or numbers.max(initial=0) >= len(words):
        raise ValueError(f"{path}: its arrays do not belong together")
    return CaptionWords(words, Ragged(numbers, lengths), tokenizer)


def _remove_oldest(folder: Path) -> None:
    with suppress(FileNotFoundError):  # another process may remove them at the same time
        files = sorted(folder.glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files[MOST:]:
            path.unlink()
