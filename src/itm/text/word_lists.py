"""Choose the words of a concept or label list by their frequency, and find them in captions."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from scipy.sparse import csr_matrix

from itm.text.tagged import tag_all
from itm.text.tagger import Tagger
from itm.text.words import CaptionWords, Ragged

GROUPS = {"NN": "OBJ", "JJ": "PROP", "VB": "MOT"}  # concept group by the first letters of the tag
QUOTAS = {"OBJ": 0.7, "PROP": 0.2, "MOT": 0.1}

# Words that some taggers call nouns although they are never labels.
_STOP = """
a an the and or but if of at by for with about to from up down in out on off over under i me my we
us our you your he him his she her it its they them their what which who this that these those am
is are was were be been being have has had having do does did doing not no nor so than too very can
will just now then here there when where why how all any both each few more most other some such
only own same s t d m o y don n't 's
"""
STOP_WORDS = frozenset(_STOP.split())


def check_words(words: Sequence[object], what: str) -> None:
    """Raise ValueError unless the words are strings that differ and are not blank."""
    if isinstance(words, str):
        raise ValueError(f"{what} must be a list of words, found {words!r}")
    wrong = [word for word in words if not isinstance(word, str) or not word.strip()]
    if wrong:
        raise ValueError(f"{what} must be words, found {wrong[0]!r}")
    if len(set(words)) != len(words):
        raise ValueError(f"{what} must hold each word once")


def count_tags(captions: CaptionWords, tagger: Tagger) -> tuple[Counter[str], dict[str, str]]:
    """Count every word, in order of first appearance, and find its most frequent tag."""
    tags = tag_all(captions, tagger)
    pairs = captions.numbers.values.astype(np.int64) * len(tags.names) + tags.of_word
    kinds, first, times = np.unique(pairs, return_index=True, return_counts=True)
    word = kinds // max(len(tags.names), 1)
    best = np.lexsort((first, -times, word))  # of equally frequent tags the first one seen
    best = best[np.unique(word[best], return_index=True)[1]]
    chosen = {captions.words[word[k]]: tags.names[kinds[k] % len(tags.names)] for k in best}
    return Counter(dict(zip(captions.words, captions.counts().tolist(), strict=True))), chosen


def choose(counts: Counter[str], tags: dict[str, str], size: int) -> dict[str, str]:
    """Choose `size` concept words by frequency, with their groups: objects, properties, motions.

    If a group has fewer words than its quota, the rest goes to objects, then to the other groups.
    """
    ranked: dict[str, list[str]] = {group: [] for group in QUOTAS}
    for word, _ in counts.most_common():
        group = GROUPS.get(tags[word][:2])
        if group is not None and is_word(word):
            ranked[group].append(word)
    properties, motions = (round(size * QUOTAS[group]) for group in ("PROP", "MOT"))
    quota = {"OBJ": size - properties - motions, "PROP": properties, "MOT": motions}
    take = {group: min(quota[group], len(words)) for group, words in ranked.items()}
    for group, words in ranked.items():
        take[group] += min(size - sum(take.values()), len(words) - take[group])
    return {word: group for group, words in ranked.items() for word in words[: take[group]]}


def frequent_nouns(captions: CaptionWords, size: int, tagger: Tagger) -> list[str]:
    """Choose the `size` words most often tagged as nouns, without stop words.

    Of equally frequent words, the one that is a noun first comes first.
    """
    tags = tag_all(captions, tagger)
    noun = np.array([name.startswith("NN") for name in tags.names], bool)
    nouns = captions.numbers.values[noun[tags.of_word]]
    kinds, first, times = np.unique(nouns, return_index=True, return_counts=True)
    ranked = [captions.words[k] for k in kinds[np.lexsort((first, -times))]]
    return [word for word in ranked if is_word(word) and word not in STOP_WORDS][:size]


def is_word(token: str) -> bool:
    """Check that a token starts with a letter; taggers call some quotes and numbers nouns."""
    return token[:1].isalpha()


def co_occurrence(captions: CaptionWords, words: Sequence[str]) -> np.ndarray:
    """Count the captions with both of two words: (K, K) int32, zero diagonal."""
    present = multi_hot(captions, {word: k for k, word in enumerate(words)})
    together = (present.T @ present).toarray()
    np.fill_diagonal(together, 0)
    return together


def multi_hot(
    captions: CaptionWords,
    column: dict[str, int],
    form: Callable[[str], str] = str,
    size: int | None = None,
) -> csr_matrix:
    """Find words in captions: (C, K) sparse, 1 if the `form` of any word is the column's word."""
    table = np.array([column.get(form(word), -1) for word in captions.words], np.int32)
    found = Ragged(table[captions.numbers.values], captions.numbers.lengths)
    found = found.where(found.values >= 0)
    shape = (len(captions), len(column) if size is None else size)
    once = np.ones(len(found.values), np.int32)
    result = csr_matrix((once, found.values, found.ends), shape=shape)
    result.sum_duplicates()
    result.data[:] = 1
    return result


def any_of_image(
    labels: csr_matrix, caption_image: Sequence[int] | np.ndarray, num_images: int
) -> np.ndarray:
    """Merge the labels of an image's captions: (C, K) -> (N, K) float32, 1 if any has it."""
    rows = np.asarray(caption_image, np.int64)
    ones = np.ones(len(rows), np.int32)
    belongs = csr_matrix((ones, (rows, np.arange(len(rows)))), shape=(num_images, len(rows)))
    found = belongs @ labels
    found.data = np.minimum(found.data, 1).astype(np.float32)
    dense: np.ndarray = found.toarray()
    return dense
