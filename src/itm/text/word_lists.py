"""Choose the words of a concept or label list by their frequency, and find them in captions."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy.sparse import csr_matrix

from itm.text.tagger import Tagger
from itm.text.tokenizers import TOKENIZERS

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


def count_tags(
    sentences: Iterable[Sequence[str]], tagger: Tagger
) -> tuple[Counter[str], dict[str, str]]:
    """Count every token, in order of first appearance, and find its most frequent tag."""
    counts: Counter[str] = Counter()
    tags: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for tokens in sentences:
        counts.update(tokens)
        for token, tag in zip(tokens, tagger(tokens), strict=True):
            tags[token][tag] += 1
    return counts, {word: tags[word].most_common(1)[0][0] for word in counts}


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


def frequent_nouns(sentences: Iterable[Sequence[str]], size: int, tagger: Tagger) -> list[str]:
    """Choose the `size` words most often tagged as nouns, without stop words.

    Of equally frequent words, the one that occurs first comes first.
    """
    counts: Counter[str] = Counter()
    for tokens in sentences:
        tagged = zip(tokens, tagger(tokens), strict=True)
        counts.update(word for word, tag in tagged if tag.startswith("NN"))
    usable = [w for w, _ in counts.most_common() if is_word(w) and w not in STOP_WORDS]
    return usable[:size]


def is_word(token: str) -> bool:
    """Check that a token starts with a letter; taggers call some quotes and numbers nouns."""
    return token[:1].isalpha()


def co_occurrence(sentences: Sequence[Sequence[str]], words: Sequence[str]) -> np.ndarray:
    """Count the sentences with both of two words: (K, K) int32, zero diagonal."""
    column = {word: k for k, word in enumerate(words)}
    present = _incidence(sentences, column, len(words))
    together = (present.T @ present).toarray()
    np.fill_diagonal(together, 0)
    return together


def multi_hot(
    captions: Iterable[str],
    column: dict[str, int],
    form: Callable[[str], str] = str,
    size: int | None = None,
    tokenizer: str = "treebank",
) -> csr_matrix:
    """Find words in captions: (C, K) sparse, 1 if the `form` of any token is the column's word."""
    split = TOKENIZERS[tokenizer]
    sentences = [[form(token) for token in split(caption)] for caption in captions]
    return _incidence(sentences, column, len(column) if size is None else size)


def any_of_image(
    labels: csr_matrix, caption_image: Sequence[int] | np.ndarray, num_images: int
) -> np.ndarray:
    """Merge the labels of an image's captions: (C, K) -> (N, K) float32, 1 if any has it."""
    rows = np.asarray(caption_image, np.int64)
    ones = np.ones(len(rows), np.int32)
    belongs = csr_matrix((ones, (rows, np.arange(len(rows)))), shape=(num_images, len(rows)))
    return (belongs @ labels).toarray().clip(max=1).astype(np.float32)


def _incidence(sentences: Sequence[Sequence[str]], column: dict[str, int], size: int) -> csr_matrix:
    """Mark which sentence contains which word: (C, K) int32, sparse."""
    found = [sorted({column[token] for token in tokens if token in column}) for tokens in sentences]
    ends = np.cumsum([0, *(len(columns) for columns in found)])
    indices = np.array([k for columns in found for k in columns], np.int32)
    return csr_matrix((np.ones(len(indices), np.int32), indices, ends), shape=(len(found), size))
