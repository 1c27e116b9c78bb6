"""Read vocabularies of the original code bases without running code from them."""

from pathlib import Path
from typing import Any

from itm.text.vocabulary import Vocabulary
from itm.utils.contents import TORCH, describe_file
from itm.utils.pickle_values import PLAIN, Instance
from itm.utils.safe_pickle import read_pickle


def read_vocabulary(path: str | Path) -> Vocabulary:
    """Read the vocabulary in a published file: JSON, or a pickle when its name ends in .pkl.

    A pickle must hold one object of a class named Vocabulary with `word2idx`, as the original code
    bases write it under Python 2 and 3.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a vocabulary.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no vocabulary at {path}")
    if path.suffix != ".pkl":
        return Vocabulary.load(path)
    if path.read_bytes()[:1] == b"{":
        raise ValueError(f"{path} is JSON and not a pickle: rename it to {path.stem}.json")
    if kind := describe_file(path, TORCH):
        raise ValueError(f"{path} is not a vocabulary pickle but {kind}")
    expected = f"{path} is not a vocabulary pickle: expected an object of class Vocabulary with"
    try:
        # Python 2 wrote words as UTF-8 bytes or as text; both arrive as text.
        found = read_pickle(path, PLAIN, classes=("Vocabulary",), encoding="utf-8")
    except ValueError as error:
        raise ValueError(f"{expected} 'word2idx' and nothing else ({error})") from error
    fields = found.fields if isinstance(found, Instance) else {}
    words = numbered_words(fields.get("word2idx"), expected)
    back = fields.get("idx2word")
    if isinstance(back, dict) and back != {i: word for word, i in fields["word2idx"].items()}:
        raise ValueError(f"{path}: 'idx2word' contradicts 'word2idx'; one of them was changed")
    return words


def numbered_words(ids: Any, expected: str) -> Vocabulary:
    """Make a vocabulary of the original's `word2idx`: {word: id}.

    Raises:
        ValueError: other data, ids that are not 0 to n-1, or other words; the message begins with
            `expected`.
    """
    if type(ids) is not dict or not all(type(i) is int for i in ids.values()):
        raise ValueError(f"{expected} 'word2idx': {{word: id}}")
    words = sorted(ids, key=ids.__getitem__)
    if [ids[word] for word in words] != list(range(len(words))):
        raise ValueError(f"{expected} each id from 0 to {len(words) - 1} once in 'word2idx'")
    try:
        return Vocabulary([str(word) for word in words])
    except ValueError as error:
        raise ValueError(f"{expected} the original's words: {error}") from error
