"""Split a caption into words."""

from __future__ import annotations

import re
from functools import lru_cache


def lower(caption: str) -> str:
    """Strip a caption and lower-case its ASCII characters, as the published pipelines did."""
    return caption.encode("utf-8").strip().lower().decode("utf-8")


@lru_cache(maxsize=1)
def _treebank():
    from nltk.tokenize import NLTKWordTokenizer  # late: importing nltk takes half a second

    return NLTKWordTokenizer()


def tokenize(caption: str) -> list[str]:
    """Lower-case a caption and split it in Penn Treebank style, as a single sentence.

    >>> tokenize("A man's dog isn't running.")
    ['a', 'man', "'s", 'dog', 'is', "n't", 'running', '.']
    """
    return _treebank().tokenize(lower(caption))


def split_blanks(caption: str) -> list[str]:
    """Lower-case a caption and split it at blanks."""
    return lower(caption).split()


def bytes_repr(caption: str) -> str:
    """Return a caption as Python 3 prints its bytes, b'...', in lower case."""
    return str(caption.encode("utf-8").strip()).lower()


def tokenize_bytes_repr(caption: str) -> list[str]:
    """Split `bytes_repr`, which CVSE's loader used as caption in training and test.

    Apply the rule of nltk 3.4.5 to 3.9.1 that separates a quote from a following single letter.

    >>> tokenize_bytes_repr("A dog runs.")
    ['b', "'", 'a', 'dog', 'runs', '.', "'"]
    """
    text = re.sub(r"(')(?!re|ve|ll|m|t|s|d|n)(\w)\b", r"\1 \2", bytes_repr(caption))
    return _treebank().tokenize(text)


TOKENIZERS = {
    "treebank": tokenize,
    "whitespace": split_blanks,
    "bytes_repr": tokenize_bytes_repr,
}
