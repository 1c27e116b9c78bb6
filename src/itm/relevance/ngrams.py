"""Count the n-grams of a corpus in a sparse matrix, and compute tf-idf features for CIDEr-D."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array

SplitWords = Callable[[str], list[str]]

ORDERS = 4  # n-grams of one to four words
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])


def whitespace_tokens(caption: str) -> list[str]:
    """Lower-case a caption and split it at blanks; meant for tokenised caption files."""
    return caption.lower().split()


def coco_tokens(caption: str) -> list[str]:
    """Split as `whitespace_tokens` and drop the punctuation that the COCO evaluation drops."""
    return [word for word in caption.lower().split() if word not in PUNCTUATION]


class DocumentFrequencies(NamedTuple):
    """The number of images of a corpus in which each n-gram occurs.

    Attributes:
        counts: tuple of words -> number of images.
        images: number of images of the corpus.

    Examples:
        >>> from itm.relevance import document_frequencies
        >>> found = document_frequencies([["a dog runs"], ["a car"]])
        >>> found.images, found.counts[("a",)]
        (2, 2)
    """

    counts: Mapping[tuple[str, ...], float]
    images: int


class NGrams(NamedTuple):
    """The n-grams of C captions, numbered order by order.

    Attributes:
        counts: (C, n-grams) int32, how often each n-gram occurs in each caption.
        order: (n-grams,) 0 for single words up to 3 for four words.
        words: the vocabulary.
        prefix: (n-grams,) number of the n-gram without its last word, -1 for single words.
        last: (n-grams,) number of the last word.
        length: (C,) number of words of each caption.
    """

    counts: csr_array
    order: np.ndarray
    words: list[str]
    prefix: np.ndarray
    last: np.ndarray
    length: np.ndarray

    def look_up(self, table: Mapping[tuple[str, ...], float]) -> np.ndarray:
        """Look up each n-gram in a table keyed by word tuples: (n-grams,), 0 if missing."""
        names: list[tuple[str, ...]] = []
        for prefix, last in zip(self.prefix.tolist(), self.last.tolist(), strict=True):
            names.append((*(names[prefix] if prefix >= 0 else ()), self.words[last]))
        return np.array([table.get(name, 0) for name in names], np.float64)

    def document_frequency(self, document: np.ndarray) -> tuple[np.ndarray, int]:
        """Count the documents that contain each n-gram, (n-grams,), and all documents.

        Args:
            document: (C,) document of each caption, -1 = none.
        """
        rows = np.repeat(document, np.diff(self.counts.indptr))
        known = rows >= 0
        where = (rows[known], self.counts.indices[known])
        shape = (int(document.max(initial=-1)) + 1, self.counts.shape[1])
        pairs = coo_array((np.ones(len(where[0]), np.int32), where), shape=shape).tocsr()
        documents = len(np.unique(document[document >= 0]))
        return np.bincount(pairs.indices, minlength=shape[1]), documents


def inverse_document_frequency(frequency: np.ndarray, documents: int) -> np.ndarray:
    """Compute log(documents) - log(max(1, frequency)), which is at least 0.

    Raises:
        ValueError: a frequency exceeds the number of documents.
    """
    if frequency.max(initial=0) > max(documents, 1):
        raise ValueError(
            f"df counts an n-gram in {frequency.max():g} of {documents} images: "
            "give the number of images that the table was counted on"
        )
    if documents <= 1:
        warnings.warn(
            "CIDEr-D is 0 everywhere if document frequencies come from a single image, "
            "because idf = log(1 / 1): pass df= with the captions of a larger corpus",
            stacklevel=3,
        )
    idf: np.ndarray = np.log(max(documents, 1)) - np.log(np.maximum(frequency, 1))
    return idf


def count_ngrams(captions: Sequence[str], tokens: SplitWords) -> NGrams:
    """Count the n-grams of up to four words.

    Each n-gram is identified by the pair (number of its first n-1 words, number of its last word),
    so sorting integers replaces dictionaries of tuples.

    Raises:
        TypeError: captions are not strings.
    """
    vocabulary: defaultdict[str, int] = defaultdict()
    vocabulary.default_factory = vocabulary.__len__
    ids: list[int] = []
    length = np.zeros(len(captions), np.int64)
    # Captions that are scored often are references as well: each is split once.
    known: dict[str, list[int]] = {}
    for i, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise TypeError(f"captions must be strings, got {type(caption).__name__} in row {i}")
        own = known.get(caption)
        if own is None:
            own = known[caption] = [vocabulary[word] for word in tokens(caption)]
        length[i] = len(own)
        ids.extend(own)

    size = len(vocabulary)
    word, caption_of = np.array(ids, np.int64), np.repeat(np.arange(len(captions)), length)
    left = np.cumsum(length)[caption_of] - np.arange(len(word))  # words up to the caption's end
    start, gram = np.arange(len(word)), word
    rows, columns = [caption_of], [word]
    prefixes, lasts = [np.full(size, -1)], [np.arange(size)]
    total = size
    for n in range(1, ORDERS):
        longer = left[start] > n
        start, gram = start[longer], gram[longer]
        keys, gram = np.unique(gram * size + word[start + n], return_inverse=True)
        gram += total
        total += len(keys)
        rows.append(caption_of[start])
        columns.append(gram)
        prefixes.append(keys // max(size, 1))
        lasts.append(keys % max(size, 1))

    where = (np.concatenate(rows).astype(np.int32), np.concatenate(columns).astype(np.int32))
    counts = coo_array((np.ones(len(where[0]), np.int32), where), shape=(len(captions), total))
    return NGrams(
        counts.tocsr(),  # adds up repeated n-grams
        np.repeat(np.arange(ORDERS), [len(x) for x in lasts]),
        list(vocabulary),
        np.concatenate(prefixes),
        np.concatenate(lasts),
        length,
    )


def document_frequencies(
    references: Sequence[Sequence[str]], tokens: SplitWords = whitespace_tokens
) -> DocumentFrequencies:
    """Count in how many images each n-gram of up to four words occurs, a table for `df`."""
    counts: Counter[tuple[str, ...]] = Counter()
    for group in references:
        words = [tokens(caption) for caption in group]
        counts.update(
            {
                tuple(w[i : i + n])
                for w in words
                for n in range(1, ORDERS + 1)
                for i in range(len(w) - n + 1)
            }
        )
    return DocumentFrequencies(counts, len(references))


def clipped_features(
    counts: csr_array, order: np.ndarray, idf: np.ndarray, dtype: np.dtype
) -> tuple[csr_array, csr_array]:
    """Compute matrices H and R with H R^T = sum over orders of the clipped cosines of CIDEr-D.

    Feature (n-gram w, k) of a caption with count y >= k is idf(w) / |g_n| as a hypothesis and
    y idf(w) / |g_n| as a reference: min(x, y) y idf^2 = sum_k [x >= k] idf * [y >= k] y idf.

    Args:
        counts: (C, n-grams).
        order: (n-grams,) order of each n-gram.
        idf: (n-grams,) >= 0.
        dtype: type of the result.

    Returns:
        Two (C, features) matrices with the same sparsity pattern.
    """
    captions = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    grams, count, weight = counts.indices, counts.data, idf[counts.indices]
    group = captions * ORDERS + order[grams]
    norm = np.sqrt(np.bincount(group, (count * weight) ** 2, minlength=ORDERS * counts.shape[0]))
    real = weight > 0
    captions, grams, count = captions[real], grams[real], count[real]
    value = weight[real] / norm[group[real]]

    entries, features, total = [np.arange(len(grams))], [grams], counts.shape[1]
    for k in range(2, int(count.max(initial=1)) + 1):
        repeated = np.flatnonzero(count >= k)
        kinds, feature = np.unique(grams[repeated], return_inverse=True)
        entries.append(repeated)
        features.append(feature + total)
        total += len(kinds)
    entry, column = np.concatenate(entries), np.concatenate(features)
    by_caption = np.argsort(captions[entry], kind="stable")
    entry, column = entry[by_caption], column[by_caption].astype(np.int32)
    indptr = np.zeros(counts.shape[0] + 1, np.int32)
    np.cumsum(np.bincount(captions[entry], minlength=counts.shape[0]), out=indptr[1:])
    shape = (counts.shape[0], total)
    return (
        csr_array((value[entry].astype(dtype), column, indptr), shape=shape),
        csr_array(((value * count)[entry].astype(dtype), column, indptr), shape=shape),
    )
