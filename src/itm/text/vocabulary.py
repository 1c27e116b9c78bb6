"""Vocabularies: turn a caption into token ids.

The steps are those of the published systems: strip the caption and lower-case its ASCII characters,
split it by nltk's Penn Treebank tokeniser (which needs no data), wrap it in <start> and <end>, and
replace unknown words by <unk>.
"""

import json
from collections import Counter
from collections.abc import Iterable
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from itm.text.bert_vocabulary import BertVocabulary
from itm.text.made_from import KEY
from itm.text.tokenizers import TOKENIZERS, bytes_repr
from itm.text.words import Ragged, split_captions
from itm.utils.checks import check_choice
from itm.utils.contents import parse_json, read_text
from itm.utils.files import write_text
from itm.utils.manifest import sealed, unsealed
from itm.utils.readers import reader

if TYPE_CHECKING:
    from itm.text.words import Sentences

SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")
PAD, START, END, UNK = range(4)
MASK = "<mask>"  # replaces words in training with size augmentation; the last word where it is used
LONGEST = 100_000  # ids of a padded caption; the original pads to at most a few hundred


class Tokens(Protocol):
    """What a matcher needs from a vocabulary; see `Vocabulary` and `BertVocabulary`.

    Examples:
        >>> from itm.text import SPECIALS, Tokens, Vocabulary
        >>> words: Tokens = Vocabulary([*SPECIALS, "dog"])
        >>> len(words)
        5
    """

    def __len__(self) -> int:
        """Return the number of ids, which is the number of rows of the embedding table."""
        ...

    def encode(self, caption: str) -> list[int]:
        """Convert a caption to ids, markers included."""
        ...

    def as_read(self, caption: str) -> str:
        """Return the text whose words `encode` looks up; concepts are matched in the same text."""
        ...

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the word of each id."""
        ...

    def state(self) -> dict[str, Any]:
        """Return everything needed to rebuild the vocabulary, as data for JSON."""
        ...


class Vocabulary:
    """Words and their ids; ids 0 to 3 are <pad>, <start>, <end>, <unk>.

    Args:
        words: the words in the order of their ids, the four specials first. Without markers only
            <pad> is required; a vocabulary without <unk> drops unknown words.
        markers: wrap each caption in <start> and <end>.
        tokenizer: "treebank"; "whitespace" to split the lower-cased caption at blanks;
            "characters" for scripts without blanks between words, see
            `itm.text.tokenizers.split_characters`; or "bytes_repr" for CVSE's published weights,
            see `itm.text.tokenizers.tokenize_bytes_repr`.
        pad_to: pad or cut every caption to this many ids, and count the padding as words. Only for
            published weights trained this way (two-branch networks in PyTorch, where the vector of
            id 0 was learnt and is part of every caption).

    Raises:
        ValueError: a word occurs twice, the specials are missing, or the tokeniser is unknown.

    Examples:
        >>> from itm.text import Vocabulary
        >>> vocab = Vocabulary.build(["a dog runs", "a cat"], min_count=1)
        >>> vocab.decode(vocab.encode("a dog"))
        ['<start>', 'a', 'dog', '<end>']
    """

    def __init__(
        self,
        words: list[str],
        markers: bool = True,
        tokenizer: str = "treebank",
        pad_to: int | None = None,
    ):
        first = len(SPECIALS) if markers else 1
        if tuple(words[:first]) != SPECIALS[:first]:
            raise ValueError(
                f"a vocabulary must start with {', '.join(SPECIALS[:first])}, got {words[:4]}"
            )
        if not all(isinstance(word, str) for word in words) or not isinstance(markers, bool):
            raise ValueError("a vocabulary must hold strings, and markers must be true or false")
        check_choice("tokenizer", tokenizer, tuple(TOKENIZERS))
        if pad_to is not None and not (type(pad_to) is int and 1 <= pad_to <= LONGEST):
            raise ValueError(
                f"pad_to (max_length in files) must be from 1 to {LONGEST}, got {pad_to!r}"
            )
        self.words = list(words)
        self.markers = markers
        self.tokenizer = tokenizer
        self.pad_to = pad_to
        self.ids = {word: i for i, word in enumerate(self.words)}
        if len(self.ids) != len(self.words):
            twice = [word for word, n in Counter(self.words).items() if n > 1]
            raise ValueError(f"a vocabulary must hold each word once, repeated: {twice[:5]}")

    def __len__(self) -> int:
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.state() == other.state()

    __hash__ = None  # type: ignore[assignment]

    def encode(self, caption: str) -> list[int]:
        """Convert a caption to ids: <start>, words (unknown -> <unk>), <end>."""
        unknown = self.ids.get("<unk>")
        found = [self.ids.get(word, unknown) for word in TOKENIZERS[self.tokenizer](caption)]
        ids = [word for word in found if word is not None]
        ids = [START, *ids, END] if self.markers else ids
        if self.pad_to is not None:
            ids = (ids + [PAD] * self.pad_to)[: self.pad_to]
        return ids

    def encode_all(self, captions: "Sentences") -> Ragged:
        """Convert many captions to ids, each as `encode` does.

        Args:
            captions: captions, or their words by `itm.text.words.split_captions`.
        """
        found = split_captions(captions, self.tokenizer)
        unknown = self.ids.get("<unk>", -1)
        table = np.array([self.ids.get(word, unknown) for word in found.words], np.int32)
        ids = Ragged(table[found.numbers.values], found.numbers.lengths)
        ids = ids.where(ids.values >= 0)
        if self.markers:
            ids = ids.between(START, END)
        return ids if self.pad_to is None else ids.cut_to(self.pad_to, PAD)

    @property
    def mask_id(self) -> int | None:
        """Return the id of <mask>; None without it, or if captions are padded to a fixed length."""
        return None if self.pad_to is not None else self.ids.get(MASK)

    def by_word(self, caption: str) -> tuple[list[list[int]], list[int], list[int]]:
        """Convert a caption to ids word by word, for `itm.data.augmentation`.

        Returns:
            The ids of each word, markers included, as these are dropped like words; and the
            markers before and after them that always stay: none.
        """
        return [[i] for i in self.encode(caption)], [], []

    def as_read(self, caption: str) -> str:
        """See `Tokens.as_read`."""
        return bytes_repr(caption) if self.tokenizer == "bytes_repr" else caption

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the word of each id."""
        return [self.words[i] for i in ids]

    @classmethod
    def build(
        cls, captions: "Sentences", min_count: int = 4, tokenizer: str = "treebank"
    ) -> "Vocabulary":
        """Keep the words that occur at least `min_count` times, in order of first appearance.

        Args:
            captions: captions, or their words by `itm.text.words.split_captions`.
            min_count: how often a word must occur.
            tokenizer: how captions are split.

        Raises:
            ValueError: the tokeniser is unknown, or the captions were split by another one.
        """
        check_choice("tokenizer", tokenizer, tuple(TOKENIZERS))
        found = split_captions(captions, tokenizer)
        counted = zip(found.words, found.counts().tolist(), strict=True)
        kept = [word for word, n in counted if n >= min_count and word not in SPECIALS]
        return cls([*SPECIALS, *kept], tokenizer=tokenizer)

    def state(self) -> dict[str, Any]:
        """Return the content as data for JSON, which `vocabulary_from` reads back."""
        return {
            "kind": "words",
            "words": self.words,
            "markers": self.markers,
            "tokenizer": self.tokenizer,
            "pad_to": self.pad_to,
        }

    def save(self, path: str | Path, captions_hash: str | None = None) -> None:
        """Write the published JSON format: word2idx, idx2word (string keys), idx.

        Of the published formats, one has markers and the other a fixed length. A vocabulary with
        both or neither is written as its `state()`, which `load` reads, too.

        Args:
            path: the file.
            captions_hash: `itm.text.made_from.hash_captions` of the captions it was built from.
        """
        data: dict[str, Any] = {
            "word2idx": self.ids,
            "idx2word": {str(i): word for i, word in enumerate(self.words)},
            "idx": len(self.words),
        }
        if self.pad_to is not None:  # the two-branch format, see `load`
            words = {word: i for word, i in self.ids.items() if i != PAD}
            data = {"tok2idx": words, "max_length": self.pad_to}
        if self.markers == (self.pad_to is not None):
            data = self.state()
        elif self.tokenizer != ("treebank" if self.pad_to is None else "whitespace"):
            data["tokenizer"] = self.tokenizer  # our addition to both formats, for `load`
        if captions_hash is not None:  # otherwise the file has the published format, without a seal
            data = sealed({**data, KEY: captions_hash})
        write_text(Path(path).expanduser(), json.dumps(data, ensure_ascii=False))

    @classmethod
    @reader("is not a vocabulary")
    def load(cls, path: str | Path) -> "Vocabulary":
        """Read a published JSON format ('word2idx', or the two-branch 'tok2idx') or a saved state.

        'tok2idx' numbers the words from 1; 0 pads every caption to 'max_length'. Captions are then
        split at blanks, and unknown words, including stop words, are dropped.

        Raises:
            ValueError: the file has another format, or its ids are not 0 to n-1.
        """
        path = Path(path).expanduser()
        options: dict[str, Any] = {}
        try:
            data = unsealed(path, parse_json(read_text(path)))
            if data.get("kind") == "words":  # of `state()`, as in a saved folder
                return cls(**{name: x for name, x in data.items() if name not in ("kind", KEY)})
            if "tok2idx" in data:
                options = {
                    "markers": False,
                    "tokenizer": "whitespace",
                    "pad_to": data["max_length"],
                }
                data = {**data, "word2idx": {SPECIALS[PAD]: PAD, **data["tok2idx"]}}
            if "tokenizer" in data:
                options["tokenizer"] = data["tokenizer"]
            index = data["word2idx"]
            if not all(type(i) is int for i in index.values()):
                raise ValueError("the ids of 'word2idx' must be whole numbers")
            back = data.get("idx2word")
            back = dict(enumerate(back)) if isinstance(back, list) else back
            if back is not None and {str(i): word for word, i in index.items()} != {
                str(i): word for i, word in back.items()
            }:
                raise ValueError("'word2idx' and 'idx2word' number the words differently")
            words = sorted(index, key=index.__getitem__)
            dense = [index[word] for word in words] == list(range(len(words)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a vocabulary: expected JSON with 'word2idx': {{word: id}} "
                f"({type(error).__name__}: {error})"
            ) from error
        if not dense:
            raise ValueError(f"{path}: word2idx must hold each id from 0 to {len(words) - 1} once")
        return cls(words, **options)


def with_mask(vocabulary: Vocabulary) -> Vocabulary:
    """Append <mask> to a vocabulary without it, as VSE-infinity and CHAN do for their training."""
    if MASK in vocabulary.ids:
        return vocabulary
    found = copy(vocabulary)  # keeps whatever else it knows
    found.ids = {**vocabulary.ids, MASK: len(vocabulary)}
    found.words = [*vocabulary.words, MASK]
    return found


def vocabulary_from(state: dict[str, Any]) -> Vocabulary | BertVocabulary:
    """Rebuild a vocabulary from its `state()`.

    Raises:
        ValueError: the kind is unknown.
    """
    state = dict(state)
    kind = state.pop("kind", None)
    check_choice("the kind of vocabulary", kind, ("words", "bert"))
    return Vocabulary(**state) if kind == "words" else BertVocabulary(**state)
