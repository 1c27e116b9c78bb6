"""Split a caption into words."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from itm.utils.checks import check_text


def lower(caption: str) -> str:
    """Strip a caption and lower-case its ASCII characters, as the published pipelines did.

    Raises:
        ValueError: the caption cannot be written in UTF-8.
    """
    try:
        return caption.encode("utf-8").strip().lower().decode("utf-8")
    except UnicodeEncodeError:
        check_text(caption, "the caption")
        raise


@lru_cache(maxsize=1)
def _treebank():
    from nltk.tokenize import NLTKWordTokenizer  # late: importing nltk takes half a second

    return NLTKWordTokenizer()


# Captions of plain words, with possessives, commas before a blank and a period at the end.
# Treebank's fifty rules split them at blanks and these signs only, except for the words it divides.
_WORD = "[a-z0-9]+(?:-[a-z0-9]+)*"
_PLAIN = re.compile(rf"(?:{_WORD}(?:'s)?(?: ?,)? +)*{_WORD} *\.?")
_DIVIDED = re.compile(r"\b(?:cannot|gimme|gonna|gotta|lemme|wanna)\b")


def tokenize(caption: str) -> list[str]:
    """Lower-case a caption and split it in Penn Treebank style, as a single sentence.

    Examples:
        >>> tokenize("A man's dog isn't running.")
        ['a', 'man', "'s", 'dog', 'is', "n't", 'running', '.']
    """
    text = lower(caption)
    if _PLAIN.fullmatch(text) and not _DIVIDED.search(text):
        return text.replace("'s", " 's").replace(",", " ,").replace(".", " .").split()
    return treebank(text)


def treebank(text: str) -> list[str]:
    """Split a text as it is by nltk's rules in the style of the Penn Treebank."""
    words: list[str] = _treebank().tokenize(text)
    return words


def split_blanks(caption: str) -> list[str]:
    """Lower-case a caption and split it at blanks."""
    return lower(caption).split()


# Scripts that put no blanks between words: Thai, Lao, Tibetan, Myanmar, Khmer, kana, Han.
_NO_BLANKS = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U000323af"
)
_CHARACTER = re.compile(f"([{_NO_BLANKS}])")


def split_characters(caption: str) -> list[str]:
    """Split a caption of any script, without a dictionary.

    Every character of a script without blanks between words (Chinese, Japanese, Thai, Lao, Khmer,
    Burmese, Tibetan) is a word. Other words end at blanks and punctuation. Compatibility forms
    (NFKC) and capitals of all scripts are unified.

    Examples:
        >>> split_characters("Ein Hund, 两只狗。")
        ['ein', 'hund', ',', '两', '只', '狗', '。']
    """
    text = _CHARACTER.sub(r" \1 ", unicodedata.normalize("NFKC", caption).lower())
    return [word for part in text.split() for word in _at_punctuation(part)]


def _at_punctuation(part: str) -> list[str]:
    """Split a part without blanks at punctuation, except for apostrophes and hyphens in words."""
    words = [""]
    for i, character in enumerate(part):
        inner = character in "'’-" and part[i - 1 : i].isalnum() and part[i + 1 : i + 2].isalnum()
        if unicodedata.category(character)[0] in "PS" and not inner:
            words += [character, ""]
        else:
            words[-1] += character
    return [word for word in words if word]


def bytes_repr(caption: str) -> str:
    """Return a caption as Python 3 prints its bytes, b'...', in lower case."""
    return str(caption.encode("utf-8").strip()).lower()


def tokenize_bytes_repr(caption: str) -> list[str]:
    """Split `bytes_repr`, which CVSE's loader used as caption in training and test.

    Apply the rule of nltk 3.4.5 to 3.9.1 that separates a quote from a following single letter.

    Examples:
        >>> tokenize_bytes_repr("A dog runs.")
        ['b', "'", 'a', 'dog', 'runs', '.', "'"]
    """
    text = re.sub(r"(')(?!re|ve|ll|m|t|s|d|n)(\w)\b", r"\1 \2", bytes_repr(caption))
    return treebank(text)


TOKENIZERS = {
    "treebank": tokenize,
    "whitespace": split_blanks,
    "characters": split_characters,
    "bytes_repr": tokenize_bytes_repr,
}
