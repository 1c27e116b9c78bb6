"""Word pieces and their ids: the vocabulary of a pretrained transformer."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, cast

FEWEST = 0.9  # word pieces per row of the transformer; its table may be padded a little


class BertVocabulary:
    """Word pieces of a pretrained transformer, with its own markers.

    Args:
        tokenizer: the tokeniser as the JSON text of the `tokenizers` package, so that a saved
            matcher needs no hub and no folder.
        max_length: longer captions are cut here, by default after 128 pieces;
            `itm.text.unknown.check_known` prints how many are.

    Examples:
        >>> from itm.text import BertVocabulary
        >>> vocab = BertVocabulary.from_pretrained("bert-base-uncased")  # doctest: +SKIP
        >>> vocab.encode("a dog runs")  # doctest: +SKIP
        [101, 1037, 3899, 3216, 102]
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
        """Read the tokeniser from a local folder or by its name on the hub.

        Args:
            path: the folder or name.
            max_length: longer captions are cut here, or at the positions of the transformer.

        Raises:
            ValueError: there is no tokeniser, or one of another transformer.
            OSError: there is no such folder or name.
        """
        tokenizer, longest = read_tokenizer(path, max_length)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(
                f"{path} has a tokeniser in Python only; it needs tokenizer.json: save that with "
                "tokenizer.save_pretrained"
            )
        return cls(backend.to_str(), longest)

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, caption: str) -> list[int]:
        """Convert a caption to ids, with the transformer's own markers."""
        return self._tokenizer.encode(caption.strip()).ids

    def is_cut(self, caption: str) -> bool:
        """Tell whether `encode` cuts a caption off."""
        return bool(self._tokenizer.encode(caption.strip()).overflowing)

    def count_unknown(self, captions: Sequence[str]) -> tuple[int, int, int]:
        """Count the word pieces of captions, the unknown ones, and the captions that are cut."""
        model = json.loads(self.json)["model"]
        unknown = model.get("unk_id")  # of a unigram model
        if unknown is None and model.get("unk_token") is not None:
            unknown = self._tokenizer.token_to_id(model["unk_token"])
        found = self._tokenizer.encode_batch([caption.strip() for caption in captions])
        pieces = [
            piece
            for one in found
            for piece, marker in zip(one.ids, one.special_tokens_mask, strict=True)
            # [UNK] counts as a marker, too, in some versions of the package.
            if not marker or piece == unknown
        ]
        return len(pieces), pieces.count(unknown), sum(bool(one.overflowing) for one in found)

    @property
    def mask_id(self) -> int | None:
        """Return the id of [MASK] or <mask>; None without either."""
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


def read_tokenizer(path: str, max_length: int) -> tuple[Any, int]:
    """Read the tokeniser of a transformer, and check that they belong together.

    Args:
        path: local folder or name on the hub.
        max_length: of a caption, in word pieces.

    Returns:
        The tokeniser, and `max_length` or, if they are fewer, the transformer's positions.

    Raises:
        ValueError: there is no tokeniser, or one of another transformer.
        OSError: there is no such folder or name.
    """
    from transformers import AutoConfig, AutoTokenizer  # late, for start-up time

    tokenizer = AutoTokenizer.from_pretrained(path)
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # transformers makes an empty one
        raise ValueError(
            f"{path} has no tokeniser: it needs tokenizer.json, or the vocabulary that the "
            "transformer was trained with (vocab.txt); save it with tokenizer.save_pretrained"
        )
    config = AutoConfig.from_pretrained(path)
    rows = getattr(config, "vocab_size", None)
    if rows is not None and not FEWEST * rows <= len(tokenizer) <= rows:
        raise ValueError(
            f"{path}: the tokeniser has {len(tokenizer)} word pieces, but the transformer has "
            f"vectors for {rows}; they do not belong together"
        )
    return tokenizer, min(max_length, _positions(config, max_length))


# Models whose positions begin after the id of the padding.
_SHIFTED = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "xlm-roberta-xl")


def _positions(config: Any, default: int) -> int:
    """Return how many word pieces a transformer can read at once."""
    positions = getattr(config, "max_position_embeddings", None) or default
    if config.model_type in _SHIFTED:
        positions -= (config.pad_token_id or 0) + 1
    return cast(int, positions)
