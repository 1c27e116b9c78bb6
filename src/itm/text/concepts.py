"""The concept vocabulary of CVSE (Wang et al., ECCV 2020, section 3.1).

Concepts are the most frequent nouns, adjectives and verbs of the training captions; the vocabulary
also counts how often they occur together.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from itm.text.lemmas import noun_lemma
from itm.text.made_from import KEY
from itm.text.tagger import Tagger, default_tagger, tagger_name
from itm.text.tokenizers import TOKENIZERS
from itm.text.word_list_files import list_in, read_original, read_word_file
from itm.text.word_lists import (
    any_of_image,
    check_words,
    choose,
    co_occurrence,
    count_tags,
    multi_hot,
)
from itm.text.word_vectors import word_vectors
from itm.text.words import split_captions
from itm.utils.checks import check_choice
from itm.utils.files import write_text
from itm.utils.manifest import sealed
from itm.utils.packed_arrays import from_text, to_text
from itm.utils.readers import reader

if TYPE_CHECKING:
    from itm.text.words import Sentences


class Concepts:
    """Concept words, their groups, counts, co-occurrence and optional word vectors.

    Args:
        words: K concept words, in the order of the labels.
        groups: "OBJ", "PROP" or "MOT" for each word.
        counts: (K,) number of occurrences of each word in the corpus.
        adjacency: (K, K) number of captions with both words; symmetric, zero diagonal.
        vectors: (K, G) word vectors, or None.
        matching: how captions are labelled: by "exact" words, or by noun "lemma" (the published
            test rule, where of concepts with the same lemma only the first is ever set).
        source: name of the tagger that made the groups.
        tokenizer: how captions are split, see `itm.text.Vocabulary`.

    Raises:
        ValueError: a word occurs twice, shapes do not match, counts are not whole numbers, or
            matching or tokeniser is unknown.

    Examples:
        >>> from itm.text import Concepts
        >>> concepts = Concepts(["dog", "grass"])
        >>> concepts.label(["a dog runs", "two cats"]).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """

    def __init__(
        self,
        words: Sequence[str],
        groups: Sequence[str] | None = None,
        counts: np.ndarray | None = None,
        adjacency: np.ndarray | None = None,
        vectors: np.ndarray | None = None,
        matching: str = "exact",
        source: str = "given",
        tokenizer: str = "treebank",
    ):
        size = len(words)
        check_words(words, "concepts")
        check_choice("matching", matching, ("exact", "lemma"))
        check_choice("tokenizer", tokenizer, tuple(TOKENIZERS))
        self.words = list(words)
        self.groups = list(groups) if groups is not None else None
        self.counts = None if counts is None else _whole("counts", counts)
        self.adjacency = None if adjacency is None else _whole("adjacency", adjacency)
        self.vectors = None if vectors is None else np.asarray(vectors, np.float32)
        self.matching = matching
        self.source = source
        self.tokenizer = tokenizer
        shapes = {"counts": (size,), "adjacency": (size, size)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} must be {shape} for {size} concepts, got {value.shape}")
        if self.groups is not None and len(self.groups) != size:
            raise ValueError(f"groups must be {size}, one per concept, got {len(self.groups)}")
        for name in shapes:
            if getattr(self, name) is not None and (getattr(self, name) < 0).any():
                raise ValueError(f"{name} of concepts must not be negative")
        if self.vectors is not None and not np.isfinite(self.vectors).all():
            raise ValueError("vectors of concepts hold NaN or infinite values")
        if self.vectors is not None and (self.vectors.ndim != 2 or len(self.vectors) != size):
            raise ValueError(f"vectors must be ({size}, G), got {self.vectors.shape}")

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def build(
        cls,
        captions: "Sentences",
        size: int = 300,
        tagger: Tagger | None = None,
        vectors: str | Path | None = None,
        tokenizer: str = "treebank",
    ) -> "Concepts":
        """Choose the most frequent words: 70 % objects, 20 % properties, 10 % motions.

        A word belongs to the group of its most frequent tag. Words are compared as written, without
        stop list or lemmas (man and men are two concepts). Of equally frequent words, the one that
        occurs first comes first. If a group has too few words, the rest goes to objects, then to
        the other groups; a small corpus gives fewer than `size` concepts.

        Args:
            captions: captions of the training split only, or their words by
                `itm.text.words.split_captions`.
            size: K (paper: 300).
            tagger: tokens -> Penn tags; None = `itm.text.tagger.default_tagger`.
            vectors: file of word vectors in GloVe's text format.
            tokenizer: how captions are split.
        """
        tagger, sentences = tagger or default_tagger(), split_captions(captions, tokenizer)
        counts, tags = count_tags(sentences, tagger)
        groups = choose(counts, tags, size)
        words = list(groups)
        return cls(
            words,
            list(groups.values()),
            np.array([counts[word] for word in words], np.int32),
            co_occurrence(sentences, words),
            None if vectors is None else word_vectors(words, vectors),
            source=tagger_name(tagger),
            tokenizer=tokenizer,
        )

    def label(self, captions: "Sentences", matching: str | None = None) -> np.ndarray:
        """Label captions: (C, K) float32, 1 if a caption contains a concept.

        Args:
            captions: C captions, or their words by `itm.text.words.split_captions`.
            matching: "exact" or "lemma"; None = as set in the constructor.
        """
        return self._find(captions, matching or self.matching).toarray().astype(np.float32)

    def label_images(
        self, captions: "Sentences", caption_image: Sequence[int] | np.ndarray, num_images: int
    ) -> np.ndarray:
        """Label images by the exact words of any of their captions: (N, K) float32.

        Use it only in training: at test time such labels would reveal which captions belong
        together.
        """
        return any_of_image(self._find(captions, "exact"), caption_image, num_images)

    def _find(self, captions: "Sentences", matching: str) -> csr_matrix:
        form = noun_lemma if matching == "lemma" else str
        column: dict[str, int] = {}
        for k, word in enumerate(self.words):
            column.setdefault(form(word), k)
        words = split_captions(captions, self.tokenizer)
        return multi_hot(words, column, form, len(self.words))

    def state(self) -> dict[str, Any]:
        """Return the content as data for JSON, which `from_state` reads back."""
        arrays = {"counts": self.counts, "adjacency": self.adjacency, "vectors": self.vectors}
        packed = {name: to_text(x) for name, x in arrays.items() if x is not None}
        plain: dict[str, Any] = {"words": self.words, "groups": self.groups}
        if self.tokenizer != "treebank":
            plain["tokenizer"] = self.tokenizer
        return {**plain, "matching": self.matching, "source": self.source, **packed}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Concepts":
        """Rebuild from `state()`."""
        arrays = ("counts", "adjacency", "vectors")
        options: dict[str, Any] = {k: from_text(v) if k in arrays else v for k, v in state.items()}
        return cls(**options)

    def save(self, path: str | Path, captions_hash: str | None = None) -> None:
        """Write `state()` as JSON, with the `hash_captions` of its source if given."""
        state = self.state() if captions_hash is None else {**self.state(), KEY: captions_hash}
        write_text(Path(path).expanduser(), json.dumps(sealed(state), ensure_ascii=False))

    @classmethod
    @reader("is not a concept list")
    def load(cls, path: str | Path, vectors: str | Path | None = None) -> "Concepts":
        """Read a file of `save`, or the original's files.

        The original code stores category_concepts.json ({word: index}) next to pickles of counts
        and word vectors, which are read, too. Captions are then labelled by lemma, as in the
        published evaluation.

        Args:
            path: JSON file, or the folder of category_concepts.json or of concepts.json.
            vectors: file of word vectors in GloVe's text format or .npy, used in place of the
                stored ones.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file has another format.
        """
        path = Path(path).expanduser()
        path = list_in(path)
        data = read_word_file(path)
        if "words" in data and isinstance(data["words"], list):
            data.pop(KEY, None)
            try:
                concepts = cls.from_state(data)
            except (TypeError, KeyError, AttributeError) as error:
                raise ValueError(f"{path} is not a list of concepts ({error})") from error
        else:
            found: dict[str, Any] = read_original(path)
            concepts = cls(**found, matching="lemma", source=path.name)
        if vectors is not None:
            concepts.vectors = word_vectors(concepts.words, vectors)
        return concepts


def _whole(name: str, values: np.ndarray) -> np.ndarray:
    """Return counts as whole numbers; the published files hold them as floats."""
    values = np.asarray(values)
    if values.dtype.kind not in "biuf" or (values != np.rint(values)).any():
        raise ValueError(f"{name} of concepts must be whole numbers")
    return values.astype(np.int32)
