"""Pickled vocabularies of the original code bases, read without running anything they contain."""

import io
import pickle
from pathlib import Path
from typing import Any

from itm.text.vocabulary import Vocabulary
from itm.utils.errors import first_line


class _Reader(pickle.Unpickler):
    """Finds a class named Vocabulary, whichever module it came from, as an empty class.

    Protocols 0 and 1 of Python 2 build an instance by `copy_reg._reconstructor(cls, object, None)`;
    it gets a stand-in too. Both are made anew each time, because a pickle can set attributes on
    what it finds.
    """

    def find_class(self, module: str, name: str) -> Any:
        if name == "Vocabulary":
            return type("Vocabulary", (), {})
        if module in ("copy_reg", "copyreg") and name == "_reconstructor":
            return lambda cls, base, state: type("Vocabulary", (), {})()
        if module in ("__builtin__", "builtins") and name == "object":
            return object
        raise pickle.UnpicklingError(f"refused to load {module}.{name}")


def read_vocabulary(path: str | Path) -> Vocabulary:
    """The vocabulary in a published file: JSON, or a pickle when it ends in .pkl.

    A pickle must hold one object of a class named Vocabulary with `word2idx`, as the original code
    bases write under Python 2 and 3; nothing in it is imported or called.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no vocabulary, or its pickle asks for anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no vocabulary at {path}")
    if path.suffix != ".pkl":
        return Vocabulary.load(path)
    try:
        # Python 2 wrote words as UTF-8 bytes or as text; both arrive as text.
        found = _Reader(io.BytesIO(path.read_bytes()), encoding="utf-8").load()
        ids = vars(found)["word2idx"]
        words = sorted(ids, key=ids.__getitem__)
        if [ids[word] for word in words] != list(range(len(words))):
            raise ValueError(f"word2idx must hold each id from 0 to {len(words) - 1} once")
        return Vocabulary([str(word) for word in words])
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise ValueError(
            f"{path} is no vocabulary pickle: expected an object of class Vocabulary with "
            f"'word2idx': {{word: id}} and nothing else "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
