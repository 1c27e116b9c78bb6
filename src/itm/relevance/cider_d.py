"""Compute CIDEr-D of all captions against the references of all images by sparse products.

For the tf-idf vectors g_n (n-grams of order n = 1..4) of a caption c and a reference s,

    CIDEr-D(c, image) = 10 mean_n mean_s <min(g_n(c), g_n(s)), g_n(s)> / (|g_n(c)| |g_n(s)|)
                        exp(-(len(c) - len(s))^2 / 72).

The usual code compares dictionaries pair by pair. But idf >= 0, so the clipped product of an n-gram
with counts x and y is idf^2 min(x, y) y, and min(x, y) = sum_k 1(x >= k) 1(y >= k). With one
feature per (n-gram, k) the clipping is linear, and one sparse matrix product computes all pairs.
The length factor depends on the two lengths only, so for each caption length the references of an
image are summed into one row beforehand. The result is exact.

Source: Vedantam et al., "CIDEr: Consensus-based image description evaluation" (CVPR 2015); gives
the same numbers as `pycocoevalcap`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from scipy.sparse import coo_array, csr_array

from itm.metrics.ranking import expand, topk
from itm.relevance.index_file import read_arrays, source_of, write_arrays
from itm.relevance.ngrams import (
    DocumentFrequencies,
    SplitWords,
    clipped_features,
    count_ngrams,
    inverse_document_frequency,
    whitespace_tokens,
)
from itm.relevance.products import length_factor, sparse_cosines
from itm.utils.checks import check_choice, check_references
from itm.utils.rows import check_rows

CAPTIONS = "a list of sentences"


def cider(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    df: Sequence[Sequence[str]] | DocumentFrequencies | None = None,
    tokens: SplitWords = whitespace_tokens,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the CIDEr-D of every caption against the references of every image.

    Args:
        captions: M captions.
        references: N lists of reference captions.
        df: source of the document frequencies: None = the references; or the reference lists of
            another corpus; or a table of `DocumentFrequencies`.
        tokens: caption -> words.
        out: (M, N) array or memory map of any float type to fill, e.g. float32 to halve the memory.

    Returns:
        (M, N) float64 in 0..10, or `out`.

    Raises:
        TypeError: captions are not strings, or references are strings instead of lists.
        ValueError: captions are not a list, `out` has another shape, or a table counts an n-gram
            in more images than it has.
    """
    check_rows("captions", captions, CAPTIONS)
    check_references(references)
    flat = [caption for group in references for caption in group]
    image = np.repeat(np.arange(len(references)), [len(group) for group in references])
    index = CiderIndex(
        [*captions, *flat],
        np.concatenate([np.full(len(captions), -1), image]),
        images=len(references),
        df=df,
        tokens=tokens,
        dtype=np.float64,
    )
    return index.matrix(captions=np.arange(len(captions)), out=out)


class CiderIndex:
    """Index a corpus by n-grams, to compute the relevance of any caption for any of its images.

    The index holds only arrays (about 0.3 GB for the 566,435 captions of COCO train in float32), so
    forked data-loader workers share its memory.

    Args:
        captions: C captions.
        caption_image: (C,) row of the image that each caption describes; -1 for a caption that is
            scored but not used as a reference.
        images: I; None = the largest row + 1.
        df: see `cider`.
        tokens: caption -> words.
        dtype: precision of the index, and of its results without `out`.

    Attributes:
        shape: (C, I).

    Raises:
        TypeError: captions are not strings, or the groups of `df` are strings instead of lists.
        ValueError: captions are not a list, `caption_image` has the wrong shape or range, or
            `df` does not match.
    """

    def __init__(
        self,
        captions: Sequence[str],
        caption_image: ArrayLike,
        images: int | None = None,
        df: Sequence[Sequence[str]] | DocumentFrequencies | None = None,
        tokens: SplitWords = whitespace_tokens,
        dtype: DTypeLike = np.float32,
    ):
        image = np.asarray(caption_image)
        if image.shape != (len(captions),) or (len(image) and image.dtype.kind not in "iu"):
            raise ValueError(
                f"caption_image must hold one image for each of {len(captions)} captions, "
                f"integers, got shape {image.shape} of {image.dtype}"
            )
        image = image.astype(np.int64)
        self.shape = (len(captions), int(image.max(initial=-1)) + 1 if images is None else images)
        if len(image) and not -1 <= image.min() <= image.max() < self.shape[1]:
            raise ValueError(
                f"caption_image must lie in -1..{self.shape[1] - 1}, got {image.min()}.."
                f"{image.max()}"
            )

        corpus = [] if df is None or isinstance(df, DocumentFrequencies) else df
        check_rows("captions", captions, CAPTIONS)
        check_references(corpus)
        ngrams = count_ngrams([*captions, *(c for group in corpus for c in group)], tokens)
        self._source = source_of(captions, image, tokens, df is not None)
        if isinstance(df, DocumentFrequencies):
            frequency, documents = ngrams.look_up(df.counts), df.images
        elif df is None:
            frequency, documents = ngrams.document_frequency(image)
        else:
            groups = np.repeat(np.arange(len(df)), [len(group) for group in df])
            scored = np.full(len(image), -1)
            frequency, documents = ngrams.document_frequency(np.concatenate([scored, groups]))
        idf = inverse_document_frequency(frequency, documents)
        self._hypotheses, self._references = clipped_features(
            ngrams.counts[: len(captions)], ngrams.order, idf, np.dtype(dtype)
        )
        # Count lengths in bigrams; this matters only for empty captions.
        self._length = np.maximum(ngrams.length[: len(captions)] - 1, 0)
        self._members = np.argsort(image, kind="stable")[np.count_nonzero(image < 0) :]
        self._count = np.bincount(image[self._members], minlength=self.shape[1])
        self._start = np.cumsum(self._count) - self._count

    def matrix(
        self,
        captions: ArrayLike | None = None,
        images: ArrayLike | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Compute the CIDEr-D (c, i) of the given captions for the given images (default: all).

        Args:
            captions: rows of c captions.
            images: rows of i images.
            out: (c, i) array or memory map of any float type to fill.

        Raises:
            ValueError: `out` has another shape.
        """
        rows = np.arange(self.shape[0]) if captions is None else np.asarray(captions)
        columns = np.arange(self.shape[1]) if images is None else np.asarray(images)
        shape = (len(rows), len(columns))
        if out is None:
            out = np.empty(shape, self._hypotheses.dtype)
        if out.shape != shape:
            raise ValueError(f"out must be captions x images, {shape}, got {out.shape}")
        for places, block in self._blocks(rows, columns):
            out[places] = block
        return out

    def topk(self, k: int, per: str = "caption") -> tuple[np.ndarray, np.ndarray]:
        """Find the k highest values of relevance without storing the matrix.

        Args:
            k: length of the lists.
            per: `caption` for the best images of each caption, or `image` for the best captions
                of each image.

        Returns:
            Values and rows, both (C, k) or (I, k), best first; the lower row wins a tie.

        Raises:
            ValueError: `per` is unknown.
        """
        check_choice("per", per, ("caption", "image"))
        queries, gallery = self.shape if per == "caption" else self.shape[::-1]
        values = np.empty((queries, min(k, gallery)), self._hypotheses.dtype)
        items = np.empty(values.shape, np.int64)

        def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            if per == "caption":
                yield from self._blocks(np.arange(self.shape[0]), np.arange(self.shape[1]))
            else:
                step = max(1, 2**23 // max(gallery, 1))
                for rows in np.split(np.arange(queries), range(step, queries, step)):
                    yield rows, self.matrix(images=rows).T

        for places, block in blocks():
            items[places] = topk(block, k)
            values[places] = np.take_along_axis(block, items[places], 1)
        return values, items

    def gather(self, captions: ArrayLike, images: ArrayLike) -> np.ndarray:
        """Compute the CIDEr-D of single pairs, (P,): caption captions[p] for image images[p]."""
        captions, images = np.asarray(captions), np.asarray(images)
        result = np.zeros(len(captions), self._hypotheses.dtype)
        for part in np.split(np.arange(len(captions)), range(4096, len(captions), 4096)):
            pair, members = self._references_of(images[part])
            rows = captions[part][pair]
            product = self._hypotheses[rows].multiply(self._references[members]).sum(1)
            product = product * length_factor(self._length[rows], self._length[members])
            count = np.maximum(self._count[images[part]], 1)
            result[part] = 2.5 * np.bincount(pair, product, minlength=len(part)) / count
        return result

    def batch(self, captions: ArrayLike, images: ArrayLike) -> np.ndarray:
        """Compute the relevance within a batch: (I, C) float32, row = image, column = caption.

        This is fast enough for the collate function of a data loader: 128 x 128 pairs take a few
        milliseconds.
        """
        captions, images = np.asarray(captions), np.asarray(images)
        owner, members = self._references_of(images)
        hypotheses, references = self._hypotheses[captions], self._references[members]
        cosine = sparse_cosines(hypotheses, references)  # (references, C)
        cosine *= length_factor(self._length[members][:, None], self._length[captions])
        weight = (2.5 / np.maximum(self._count[images], 1)).astype(np.float32)[owner]
        mean = coo_array(
            (weight, (owner, np.arange(len(members)))), shape=(len(images), len(members))
        )
        result: np.ndarray = mean.tocsr() @ cosine
        return result

    def _references_of(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the position of its image and its own row for each reference of the images."""
        count = self._count[images]
        members = self._members[expand(self._start[images], count)]
        return np.repeat(np.arange(len(images)), count), members

    def _blocks(
        self, captions: np.ndarray, images: np.ndarray, size: int = 512
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield places in `captions` of equal length, and their scores (places, images)."""
        owner, members = self._references_of(images)
        references = self._references[members].T.tocsr()  # (features, references)
        scale = 2.5 / np.maximum(self._count[images], 1)[owner]
        for length in np.unique(self._length[captions]):
            weight = scale * length_factor(length, self._length[members])
            mean = csr_array(
                (weight.astype(references.dtype), owner, np.arange(len(owner) + 1)),
                shape=(len(owner), len(images)),
            )
            table = references @ mean  # (features, images), length factor included
            places = np.flatnonzero(self._length[captions] == length)
            for part in np.split(places, range(size, len(places), size)):
                yield part, (self._hypotheses[captions[part]] @ table).toarray()

    def save(self, path: str | Path) -> None:
        """Write the index to an .npz file."""
        arrays = {
            "hypotheses": self._hypotheses.data,
            "references": self._references.data,
            "indices": self._hypotheses.indices,
            "indptr": self._hypotheses.indptr,
            "width": np.array(self._hypotheses.shape[1]),
            "length": self._length,
            "members": self._members,
            "count": self._count,
        }
        write_arrays(path, {**arrays, "source": np.array(self._source)})

    @classmethod
    def load(
        cls,
        path: str | Path,
        captions: Sequence[str] | None = None,
        caption_image: ArrayLike | None = None,
        tokens: SplitWords = whitespace_tokens,
    ) -> "CiderIndex":
        """Read an index that `save` wrote.

        Args:
            path: the file.
            captions: the captions that the index must have been made from; None = any.
            caption_image: (C,) row of each caption's image; give both or neither.
            tokens: how the captions must have been split.

        Raises:
            ValueError: damaged, something else, or made from other captions, images, words or
                frequencies; or one of `captions` and `caption_image` is missing.
        """
        if (captions is None) != (caption_image is None):
            raise ValueError("give captions= and caption_image= together, or neither of them")
        saved = read_arrays(path)
        index = cls.__new__(cls)
        index._source = str(saved.get("source", ""))  # files of earlier versions have none
        if captions is not None:
            image = np.asarray(caption_image, np.int64)
            if index._source != source_of(captions, image, tokens):
                raise ValueError(
                    f"{path} was made from other captions, images, words or document frequencies: "
                    "run itm.prepare again"
                )
        index.shape = (len(saved["length"]), len(saved["count"]))
        shape, pattern = (index.shape[0], int(saved["width"])), (saved["indices"], saved["indptr"])
        index._hypotheses = csr_array((saved["hypotheses"], *pattern), shape=shape)
        index._references = csr_array((saved["references"], *pattern), shape=shape)
        index._length, index._members = saved["length"], saved["members"]
        index._count = saved["count"]
        index._start = np.cumsum(index._count) - index._count
        return index
