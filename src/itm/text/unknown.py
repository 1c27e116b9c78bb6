"""Count the words of captions that a vocabulary does not know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from itm.text.bert_vocabulary import BertVocabulary
from itm.text.tokenizers import TOKENIZERS, split_characters
from itm.text.vocabulary import Tokens, Vocabulary
from itm.text.words import CaptionWords
from itm.utils.log_files import say

SAMPLE = 5000  # captions that are counted
LONG = 5  # characters of a script without blanks that a word may have on average
WARN = 0.1  # the share of unknown words above which a warning is printed


class Unknown(NamedTuple):
    """The words and captions that a vocabulary loses.

    Attributes:
        share: share of unknown words; without <unk>, share of captions without a known word.
        examples: the most frequent unknown words.
        cut: share of captions that are cut because they are too long.
    """

    share: float
    examples: list[str]
    cut: float = 0.0


def count_unknown(vocab: Tokens, captions: Sequence[str]) -> Unknown:
    """Count what a vocabulary loses of captions, in an even sample of at most `SAMPLE`.

    A vocabulary of another class is taken to know everything.
    """
    rows = np.unique(np.linspace(0, len(captions) - 1, min(SAMPLE, len(captions))).astype(int))
    sample = [captions[row] for row in rows]
    if isinstance(vocab, BertVocabulary):
        pieces, unknown, long = vocab.count_unknown(sample)
        examples: list[str] = [caption[:20] for caption in sample[:1]]
        return Unknown(unknown / max(pieces, 1), examples, long / max(len(sample), 1))
    if not isinstance(vocab, Vocabulary):
        return Unknown(0.0, [])
    split = TOKENIZERS[vocab.tokenizer]
    sentences = [split(caption) for caption in sample]
    missing = Counter(word for words in sentences for word in words if word not in vocab.ids)
    if "<unk>" not in vocab.ids:  # unknown words are dropped, stop words on purpose
        lost = sum(not any(word in vocab.ids for word in words) for words in sentences)
        share = lost / max(len(sentences), 1)
    else:
        share = missing.total() / max(sum(map(len, sentences)), 1)
    return Unknown(share, [word for word, _ in missing.most_common(3)])


def check_divided(captions: CaptionWords) -> None:
    """Refuse captions that a tokeniser did not divide into words, such as Chinese at blanks.

    Raises:
        ValueError: a word has more than `LONG` characters of scripts without blanks on average.
    """
    rows = range(0, len(captions), max(1, len(captions) // SAMPLE))
    sample = [captions[row] for row in rows]
    words = sum(map(len, sample))
    characters = sum(len(split_characters(" ".join(caption))) for caption in sample)
    if characters > LONG * words:
        raise ValueError(
            f"captions such as {' '.join(sample[0])[:30]!r} have no blanks between words, so that "
            "whole sentences would be words: set data.tokenizer=characters "
            "(data.tokenizer=whitespace if the blanks are right)"
        )


def check_known(vocab: Tokens, captions: Sequence[str], most: float, what: str) -> None:
    """Refuse captions that a vocabulary does not know, and print what it loses of others.

    Args:
        vocab: the vocabulary.
        captions: the captions.
        most: the share of unknown words that is accepted; 1 = any.
        what: description of the captions, for messages.

    Raises:
        ValueError: a larger share of the words is unknown.
    """
    found = count_unknown(vocab, captions)
    if found.share > most:
        raise ValueError(
            f"{_share(vocab, found, what)}; at most {most:.0%} are accepted (data.max_unknown). "
            "Lower data.min_count for small data, set data.tokenizer=characters for scripts "
            "without blanks between words, or give a vocabulary or transformer of this language"
        )
    for line in _warnings(vocab, found, what):
        say(line)


def warn_unknown(vocab: Tokens, captions: Sequence[str], what: str) -> list[str]:
    """Say what a vocabulary loses of captions that are scored, or nothing; see `check_known`."""
    return _warnings(vocab, count_unknown(vocab, captions), what)


def _warnings(vocab: Tokens, found: Unknown, what: str) -> list[str]:
    lines = [f"warning: {_share(vocab, found, what)}"] if found.share > WARN else []
    if found.cut:
        length = getattr(vocab, "max_length", 0)
        lines.append(f"warning: {found.cut:.1%} of {what} are cut after {length} word pieces")
    return lines


def _share(vocab: Tokens, found: Unknown, what: str) -> str:
    return (
        f"{found.share:.0%} of the words of {what} are unknown to the vocabulary of {len(vocab)} "
        f"entries (such as {', '.join(map(repr, found.examples))})"
    )
