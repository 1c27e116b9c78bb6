"""Pickled vocabularies of the original code bases, read without running anything they contain."""

import io
import pickle
from pathlib import Path
from typing import Any

from itm.text import Vocabulary


class _Pickled:
    """Stands for the originals' class Vocabulary: a bag of attributes."""


def _reconstruct(cls: type, base: type, state: Any) -> Any:
    """What `copyreg._reconstructor` does, for the one class known here."""
    return _Pickled()


class _Reader(pickle.Unpickler):
    """Finds a class named Vocabulary, whichever module it came from, and nothing else.

    Protocols 0 and 1 of Python 2 build instances through `copy_reg._reconstructor(cls, object,
    None)`, which is answered by the function above.
    """

    def find_class(self, module: str, name: str) -> Any:
        if name == "Vocabulary":
            return _Pickled
        if (module, name) in (("copy_reg", "_reconstructor"), ("copyreg", "_reconstructor")):
            return _reconstruct
        if (module, name) in (("__builtin__", "object"), ("builtins", "object")):
            return object
        raise pickle.UnpicklingError(f"refused to load {module}.{name}")


def read_vocabulary(path: str | Path) -> Vocabulary:
    """The vocabulary in a published file: JSON, or a pickle when it ends in .pkl.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no vocabulary, or its pickle holds anything but one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no vocabulary at {path}")
    if path.suffix != ".pkl":
        return Vocabulary.load(path)
    try:
        # Python 2 wrote words as UTF-8 bytes or as text; both arrive as text.
        found = _Reader(io.BytesIO(path.read_bytes()), encoding="utf-8").load()
        index = vars(found)["word2idx"]
        words = sorted(index, key=index.__getitem__)
        dense = [index[word] for word in words] == list(range(len(words)))
    except Exception as error:  # a hostile or damaged pickle can raise anything
        raise ValueError(
            f"{path} is no vocabulary pickle: expected an object of class Vocabulary with "
            f"'word2idx': {{word: id}} and nothing else ({error!r})"
        ) from error
    if not dense:
        raise ValueError(f"{path}: word2idx must hold each id from 0 to {len(words) - 1} once")
    return Vocabulary(words)
