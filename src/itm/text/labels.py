"""The label vocabulary of CASC and of the multi-label loss (Xu et al., TNNLS 2020).

Labels are the most frequent nouns of the training captions; an image has a label if any of its
captions contains the word.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itm.text.made_from import KEY
from itm.text.tagger import Tagger, default_tagger, tagger_name
from itm.text.tokenizers import TOKENIZERS
from itm.text.word_list_files import read_word_file, words_of
from itm.text.word_lists import any_of_image, check_words, frequent_nouns, multi_hot
from itm.text.words import CaptionWords, split_captions
from itm.utils.checks import check_choice
from itm.utils.files import write_text
from itm.utils.manifest import sealed
from itm.utils.readers import reader

if TYPE_CHECKING:
    from itm.text.words import Sentences


class Labels:
    """Label words of CASC and of the multi-label loss.

    Args:
        words: K label words.
        positives: (K,) number of images with each label, or None.
        images: number of images counted.
        source: name of the tagger that chose the words.
        tokenizer: how captions are split, see `itm.text.Vocabulary`.

    Raises:
        ValueError: a word occurs twice, `positives` does not hold K counts of images, or the
            tokeniser is unknown.

    Examples:
        >>> from itm.text import Labels
        >>> labels = Labels(["dog", "red"])
        >>> len(labels), labels.words
        (2, ['dog', 'red'])
    """

    def __init__(
        self,
        words: Sequence[str],
        positives: Sequence[int] | None = None,
        images: int = 0,
        source: str = "given",
        tokenizer: str = "treebank",
    ):
        check_choice("tokenizer", tokenizer, tuple(TOKENIZERS))
        check_words(words, "labels")
        if positives is not None and len(positives) != len(words):
            raise ValueError(f"expected {len(words)} counts, one per label, got {len(positives)}")
        if positives is not None and not all(0 <= n <= images for n in positives):
            raise ValueError(f"counts of labels must lie between 0 and the {images} images")
        self.words = list(words)
        self.positives = None if positives is None else [int(n) for n in positives]
        self.images = images
        self.source = source
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def build(
        cls,
        captions: "Sentences",
        size: int = 500,
        tagger: Tagger | None = None,
        caption_image: Sequence[int] | np.ndarray | None = None,
        tokenizer: str = "treebank",
    ) -> "Labels":
        """Choose the most frequent nouns without stop words.

        Only occurrences tagged as nouns count.

        Args:
            captions: captions of the training split only (published: training and validation),
                or their words by `itm.text.words.split_captions`.
            size: K (paper: 500); there are fewer labels if the corpus has fewer nouns.
            tagger: tokens -> Penn tags; None = `itm.text.tagger.default_tagger`.
            caption_image: row of each caption's image, for `pos_weight`; None = every caption
                has a separate image.
            tokenizer: how captions are split.
        """
        tagger, words = tagger or default_tagger(), split_captions(captions, tokenizer)
        labels = cls(
            frequent_nouns(words, size, tagger), source=tagger_name(tagger), tokenizer=tokenizer
        )
        labels.count(words, np.arange(len(words)) if caption_image is None else caption_image)
        return labels

    def count(self, captions: "Sentences", caption_image: Sequence[int] | np.ndarray) -> None:
        """Count the images with each label, for `pos_weight`, and replace earlier counts.

        Args:
            captions: captions of the training split.
            caption_image: row of each caption's image.
        """
        rows = np.asarray(caption_image)
        table = self.label_images(captions, rows, int(rows.max(initial=-1)) + 1)
        self.positives = table.sum(0).astype(int).tolist()
        self.images = len(np.unique(rows))

    def label_images(
        self,
        captions: "Sentences",
        caption_image: Sequence[int] | np.ndarray,
        num_images: int,
        legacy_join: bool = False,
    ) -> np.ndarray:
        """Label images: (N, K) float32, 1 if any caption contains the word, with any tag.

        Args:
            captions: C captions, or their words by `itm.text.words.split_captions`.
            caption_image: (C,) row of each caption's image.
            num_images: N.
            legacy_join: first join an image's captions without a space, as the original code did,
                which loses labels at the joints; needs captions, not words.
        """
        if legacy_join:
            if isinstance(captions, CaptionWords):
                raise ValueError("legacy_join joins captions: pass them, not their words")
            glued: defaultdict[int, str] = defaultdict(str)
            for caption, row in zip(captions, caption_image, strict=True):
                glued[int(row)] += caption.strip()
            captions, caption_image = list(glued.values()), list(glued)
        column = {word: k for k, word in enumerate(self.words)}
        found = multi_hot(split_captions(captions, self.tokenizer), column)
        return any_of_image(found, caption_image, num_images)

    def pos_weight(self, cap: float = 100.0) -> np.ndarray:
        """Compute weights of positive labels, (K,): images without / images with, at most `cap`.

        Raises:
            ValueError: the list has no counts, as when it was read from a file without them.
        """
        if self.positives is None:
            raise ValueError(
                "this label list has no counts: build it with Labels.build(captions, ...), or pass "
                "the weights as pos_weight"
            )
        found = np.array(self.positives, np.float64)
        return np.minimum((self.images - found) / np.maximum(found, 1), cap).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """Return the content as data for JSON, which `from_state` reads back."""
        counts = {"positives": self.positives, "images": self.images}
        state = {"words": self.words, **counts, "source": self.source}
        return state if self.tokenizer == "treebank" else {**state, "tokenizer": self.tokenizer}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Labels":
        """Rebuild from `state()`."""
        return cls(**state)

    def save(self, path: str | Path, captions_hash: str | None = None) -> None:
        """Write `state()` as JSON, with the `hash_captions` of its source if given."""
        state = self.state() if captions_hash is None else {**self.state(), KEY: captions_hash}
        write_text(Path(path).expanduser(), json.dumps(sealed(state), ensure_ascii=False))

    @classmethod
    @reader("is not a label list")
    def load(cls, path: str | Path) -> "Labels":
        """Read a file of `save`, or the original's vocab_tag.json (<unk> at 0, label k at k + 1).

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file has another format.
        """
        path = Path(path).expanduser()
        data = read_word_file(path)
        data.pop(KEY, None)
        if "words" in data:
            try:
                return cls.from_state(data)
            except TypeError as error:
                raise ValueError(f"{path} must be a label list, got another word list") from error
        words = words_of(data.get("word2idx"), path)
        if "<start>" in words:
            raise ValueError(
                f"{path} is a vocabulary of {len(words)} words, expected a label list such as the "
                "original's vocab_tag.json"
            )
        return cls(words[1:] if words[:1] == ["<unk>"] else words, source=path.name)


def positive_weights(
    given: Sequence[float] | float | str | Path | None, num_labels: int
) -> list[float] | None:
    """Read the weights of positive labels from a configuration value, which may be a file.

    Args:
        given: a .npy file of K numbers, such as the original's caption_np.npy; or a value that
            `label_weights` accepts.
        num_labels: number K of labels.

    Returns:
        K numbers; None if the label vocabulary is to provide them.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the value does not hold K valid weights.
    """
    if not isinstance(given, (str, Path)) or str(given) == "auto":
        return label_weights(given, num_labels)
    name = f"pos_weight={given}"
    if not Path(given).is_file():
        raise FileNotFoundError(
            f"{name}: no such file; give a .npy file of {num_labels} numbers, the numbers "
            "themselves, one number for all labels (1 = unweighted), or auto = from the label "
            "vocabulary"
        )
    try:
        weights = np.load(given, allow_pickle=False)
        if weights.dtype.kind not in "fiu":
            raise ValueError(f"it holds {weights.dtype}")
        weights = weights.astype(np.float32)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{name}: expected {num_labels} plain numbers ({error})") from error
    return label_weights(weights, num_labels, name)


def label_weights(
    given: Sequence[float] | np.ndarray | float | str | Path | None,
    num_labels: int,
    name: str = "pos_weight",
) -> list[float] | None:
    """Check the weights of positive labels, and expand a single weight to all labels.

    Args:
        given: K numbers; one number for all labels (1 = unweighted); or None or "auto".
        num_labels: number K of labels.
        name: name of the weights in messages.

    Returns:
        K numbers; None if the label vocabulary is to provide them.

    Raises:
        ValueError: the value does not hold K valid weights.
    """
    if given is None or str(given) == "auto":
        return None
    if isinstance(given, (str, Path)):
        raise ValueError(
            f"{name}={str(given)!r}: expected {num_labels} numbers; read a file with "
            f"itm.text.labels.positive_weights({str(given)!r}, {num_labels})"
        )
    try:
        weights = np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected {num_labels} plain numbers ({error})") from error
    weights = np.ravel(weights if weights.ndim else np.full(num_labels, weights))
    if len(weights) != num_labels:
        raise ValueError(
            f"{name}: {len(weights)} positive weights, num_labels={num_labels}; give weights and a "
            "label vocabulary (data.labels=FILE) that belong together"
        )
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"{name}: weights must be finite and at least 0")
    return weights.tolist()
