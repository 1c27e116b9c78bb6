"""The word lists of a data module: read from a file, or built from the training captions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from itm.text.made_from import made_from
from itm.text.unknown import check_divided
from itm.text.vocabulary import SPECIALS, Tokens, Vocabulary
from itm.text.word_list_files import list_in
from itm.text.words import CaptionWords
from itm.utils.log_files import say

if TYPE_CHECKING:
    from itm.text.concepts import Concepts
    from itm.text.labels import Labels

SAMPLE = 20_000  # captions in which given concepts are looked up
MOST_UNUSED = 0.5  # the share of a list's words that may be missing without a warning
SplitTraining = Callable[[str], CaptionWords]  # tokeniser -> words of the training captions


def find_vocabulary(
    given: str | Path | Tokens | None,
    words: SplitTraining,
    min_count: int,
    tokenizer: str | None = None,
) -> Tokens:
    """Take the given vocabulary, read its file, or keep the words that occur `min_count` times.

    Raises:
        ValueError: the given vocabulary splits captions in another way, or the built one is empty.
    """
    if given is None:
        return build_vocabulary(words(tokenizer or "treebank"), min_count)
    vocab = Vocabulary.load(given) if isinstance(given, (str, Path)) else given
    own = getattr(vocab, "tokenizer", None)
    if tokenizer is not None and own is not None and own != tokenizer:
        raise ValueError(
            f"data.tokenizer={tokenizer}, but data.vocab={given} was built with {own!r}: leave "
            "data.tokenizer out, or build a vocabulary"
        )
    return vocab


def build_vocabulary(captions: CaptionWords, min_count: int) -> Vocabulary:
    """Keep the words that occur `min_count` times.

    Raises:
        ValueError: there are none, or whole sentences are words.
    """
    vocab = Vocabulary.build(captions, min_count, captions.tokenizer)
    if len(vocab) == len(SPECIALS):
        words = captions[0][:2] if len(captions) else []
        raise ValueError(
            f"no word of the captions (such as {', '.join(repr(word[:30]) for word in words)}) "
            f"occurs {min_count} times, so the vocabulary would be empty. Lower data.min_count for "
            "small data, or set data.tokenizer=characters for scripts without blanks between words"
        )
    if captions.tokenizer == "treebank":
        check_divided(captions)
    return vocab


def list_tokenizer(vocab: Tokens, tokenizer: str | None) -> str:
    """Choose how label and concept words are split: as asked, else as the vocabulary's words."""
    own = getattr(vocab, "tokenizer", None)
    return tokenizer or ("characters" if own == "characters" else "treebank")


def find_labels(
    file: str | Path | None,
    words: SplitTraining,
    caption_image: np.ndarray,
    size: int,
    tokenizer: str = "treebank",
) -> Labels:
    """Read the labels of a file, or choose the `size` most frequent; count them in the captions."""
    from itm.text.labels import Labels  # late: only some models and losses need it

    if file is None:
        found = words(tokenizer)
        return Labels.build(found, size, caption_image=caption_image, tokenizer=tokenizer)
    labels = Labels.load(file)
    labels.count(words(labels.tokenizer), caption_image)
    _check_found(f"data.labels={file}", labels.words, np.array(labels.positives))
    return labels


def _check_found(option: str, words: list[str], counts: np.ndarray) -> None:
    """Check that the words of a list occur in the captions.

    Raises:
        ValueError: none does.
    """
    without = [word for word, n in zip(words, counts, strict=True) if not n]
    if len(without) == len(words):
        raise ValueError(
            f"{option}: none of its {len(words)} words, such as {words[:3]}, occurs in the "
            "training captions; give a list of this language and tokeniser, or leave the option out"
        )
    if len(without) > MOST_UNUSED * len(words):
        say(
            f"warning: {option}: {len(without)} of its {len(words)} words, such as {without[:3]}, "
            "do not occur in the training captions"
        )


def find_concepts(
    file: str | Path | None,
    words: SplitTraining,
    captions: list[str],
    size: int,
    tokenizer: str = "treebank",
) -> Concepts:
    """Read the concepts of a file or folder, or choose the `size` most frequent.

    Raises:
        ValueError: the file lacks the counts that the graph of concepts is built from.
    """
    from itm.text.concepts import Concepts  # late: only CVSE needs it

    if file is None:
        return Concepts.build(words(tokenizer), size, tokenizer=tokenizer)
    concepts = Concepts.load(file)
    labelled = concepts.label(captions[:: max(1, len(captions) // SAMPLE)])
    _check_found(f"data.concepts={file}", concepts.words, labelled.sum(0))
    if concepts.adjacency is None:
        raise ValueError(
            f"data.concepts={file} has no counts, from which the graph of concepts is built: give "
            "the original's folder, or a file that itm.prepare wrote"
        )
    return concepts


def check_source(option: str, given: object, captions_hash: Callable[[], str]) -> None:
    """Check that a prepared file was made from the training captions.

    Args:
        option: name of the option, for messages.
        given: value of the option; only a file that records its source is checked.
        captions_hash: returns the hash of all training captions.

    Raises:
        ValueError: the file was made from other captions.
    """
    recorded = None
    if isinstance(given, (str, Path)):
        path = Path(given).expanduser()
        recorded = made_from(list_in(path) if option == "data.concepts" else path)
    if recorded is not None and recorded != captions_hash():
        raise ValueError(
            f"{option}={given} was made from other captions than those of this training split: run "
            "itm.prepare again, leave the option out, or set data.other_captions=true to use the "
            "file on purpose"
        )
