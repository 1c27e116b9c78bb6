"""Word pieces and their ids: the vocabulary of a pretrained transformer."""

from collections.abc import Iterable
from typing import Any, cast


class BertVocabulary:
    """Word pieces of a pretrained transformer, with its own markers.

    Args:
        tokenizer: the tokeniser as the JSON text of the `tokenizers` package, so that a saved
            matcher needs no hub and no folder.
        max_length: longer captions are cut here.
    """

    def __init__(self, tokenizer: str, max_length: int = 128):
        from tokenizers import Tokenizer  # late, for start-up time

        self.json = tokenizer
        self.max_length = max_length
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)

    @classmethod
    def from_pretrained(cls, path: str, max_length: int = 128) -> "BertVocabulary":
        """Read the tokeniser from a local folder or by its name on the hub."""
        from transformers import AutoTokenizer  # late, for start-up time

        return cls(AutoTokenizer.from_pretrained(path).backend_tokenizer.to_str(), max_length)

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, caption: str) -> list[int]:
        """Convert a caption to ids, with the transformer's own markers."""
        return self._tokenizer.encode(caption.strip()).ids

    @property
    def mask_id(self) -> int | None:
        """The id of [MASK] or <mask>; None without either."""
        for mask in ("[MASK]", "<mask>"):
            found = self._tokenizer.token_to_id(mask)
            if found is not None:
                return cast(int, found)
        return None

    def by_word(self, caption: str) -> tuple[list[list[int]], list[int], list[int]]:
        """Convert a caption to ids word by word, for `itm.data.augmentation`.

        Returns:
            The ids of the pieces of each word; and the markers before and after them.
        """
        encoding = self._tokenizer.encode(caption.strip())
        words: list[list[int]] = []
        before: list[int] = []
        after: list[int] = []
        last = None
        for i, word in zip(encoding.ids, encoding.word_ids, strict=True):
            if word is None:
                (after if words else before).append(i)
            elif word == last:
                words[-1].append(i)
            else:
                words.append([i])
            last = word
        return words, before, after

    def as_read(self, caption: str) -> str:
        """Return the caption: concepts are found in the text that `encode` reads."""
        return caption

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the word piece of each id."""
        return [cast(str, self._tokenizer.id_to_token(int(i))) for i in ids]

    def state(self) -> dict[str, Any]:
        """Return the content as data for JSON, which `vocabulary_from` reads back."""
        return {"kind": "bert", "tokenizer": self.json, "max_length": self.max_length}
