"""Captions as words: split once, every distinct word stored once, for all that reads them."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from itm.text.tokenizers import TOKENIZERS

if TYPE_CHECKING:
    from typing import TypeAlias

    Sentences: TypeAlias = "Iterable[str] | CaptionWords"


class Ragged(Sequence[list[int]]):
    """Lists of whole numbers of different lengths, in one array: a tenth of the lists' memory.

    Args:
        values: (W,) the numbers, list after list.
        lengths: (C,) length of each list.
    """

    def __init__(self, values: np.ndarray, lengths: np.ndarray):
        self.values = values
        self.lengths = lengths
        # List i is values[ends[i] : ends[i + 1]].
        self.ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    @classmethod
    def of(cls, lists: Iterable[Sequence[int]]) -> Ragged:
        """Pack lists."""
        values, lengths = array("i"), array("i")
        for one in lists:
            values.extend(one)
            lengths.append(len(one))
        return cls(np.array(values, np.int32), np.array(lengths, np.int32))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> list[int]:  # type: ignore[override]
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        found: list[int] = self.values[self.ends[row] : self.ends[row + 1]].tolist()
        return found

    def rows(self) -> np.ndarray:
        """Return the list that each value belongs to, (W,)."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def where(self, keep: np.ndarray) -> Ragged:
        """Keep the values marked in (W,) `keep`."""
        counts = np.concatenate([[0], np.cumsum(keep)])[self.ends]
        return Ragged(self.values[keep], np.diff(counts).astype(np.int32))

    def between(self, first: int, last: int) -> Ragged:
        """Put one number before and one after each list."""
        found = Ragged(np.empty(len(self.values) + 2 * len(self), np.int32), self.lengths + 2)
        found.values[found.ends[:-1]], found.values[found.ends[1:] - 1] = first, last
        found.values[np.arange(len(self.values)) + 2 * self.rows() + 1] = self.values
        return found

    def cut_to(self, length: int, pad: int) -> Ragged:
        """Cut each list to a length, or fill it up."""
        table = np.full((len(self), length), pad, np.int32)
        rows = self.rows()
        columns = np.arange(len(self.values)) - self.ends[rows]
        kept = columns < length
        table[rows[kept], columns[kept]] = self.values[kept]
        return Ragged(table.ravel(), np.full(len(self), length, np.int32))


@dataclass(frozen=True, eq=False)
class CaptionWords:
    """The words of C captions; `split_captions` makes it.

    Attributes:
        words: the distinct words, in order of first appearance.
        numbers: C lists of places in `words`.
        tokenizer: how the captions were split, see `itm.text.Vocabulary`.
    """

    words: list[str]
    numbers: Ragged
    tokenizer: str

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, row: int) -> list[str]:
        """Return the words of a caption."""
        return [self.words[number] for number in self.numbers[row]]

    def counts(self) -> np.ndarray:
        """Count the occurrences of each word, (words,)."""
        return np.bincount(self.numbers.values, minlength=len(self.words))

    def first(self, count: int) -> CaptionWords:
        """Keep the first captions, as if only they had been split."""
        if count >= len(self):
            return self
        values = self.numbers.values[: self.numbers.ends[count]]
        numbers = Ragged(values, self.numbers.lengths[:count])
        return CaptionWords(self.words[: values.max(initial=-1) + 1], numbers, self.tokenizer)


def split_captions(captions: Sentences, tokenizer: str) -> CaptionWords:
    """Split captions into words; captions that are split already are returned as they are.

    Raises:
        ValueError: the captions were split by another tokeniser.
    """
    if isinstance(captions, CaptionWords):
        if captions.tokenizer != tokenizer:
            raise ValueError(
                f"these captions were split by {captions.tokenizer!r}, expected {tokenizer!r}: "
                "pass the captions themselves"
            )
        return captions
    split, number = TOKENIZERS[tokenizer], defaultdict[str, int]()
    number.default_factory = number.__len__
    numbers = Ragged.of([number[word] for word in split(caption)] for caption in captions)
    return CaptionWords(list(number), numbers, tokenizer)
