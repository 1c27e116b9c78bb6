"""Compare CIDEr-D by sparse products with pycocoevalcap, which scores one pair after the other.

The time of pycocoevalcap is measured on a sample of pairs, and the scores of this sample are
compared. The captions are COCO's if `$ITM_SHARED` has them, otherwise random words with natural
frequencies.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pycocoevalcap.cider.cider_scorer import CiderScorer

from benchmarks.measure import Row, timed
from itm.relevance import CiderIndex, group_captions

SIZES = {"tiny": (20, 50), "small": (500, 300), "paper": (5000, 1000)}  # images, sample of pairs
BATCH = 128


def rows(size: str) -> Iterator[Row]:
    images, sample = SIZES[size]
    lines, source = sentences(5 * images)
    image = np.arange(len(lines)) // 5
    rng = np.random.default_rng(0)
    c, i = rng.integers(0, len(lines), sample), rng.integers(0, images, sample)
    c[::10] = i[::10] * 5  # include some captions of the image itself
    slow, theirs = package(lines, group_captions(lines, image), c, i)
    every = slow / sample * images * len(lines)
    for dtype, limit in ((np.float64, 1e-8), (np.float32, 1e-3)):
        build, index = timed(lambda d=dtype: CiderIndex(lines, image, dtype=d))
        full, matrix = timed(index.matrix)
        worst = float(np.abs(matrix[c, i] - theirs).max())
        if not worst <= limit:
            raise ValueError(f"CIDEr-D differs from pycocoevalcap by {worst:.2g}")
        yield Row(
            f"all {len(lines):,} x {images:,} pairs with the index, {np.dtype(dtype)}",
            build + full,
            against="pycocoevalcap (extrapolated)",
            plain=every,
            difference=worst,
            note=source,
        )
    some = rng.permutation(images)[:BATCH]
    batch = some * 5 + rng.integers(0, 5, len(some))
    seconds = min(timed(lambda: index.batch(batch, some))[0] for _ in range(5))
    gap = float(np.abs(index.batch(batch, some) - matrix[batch][:, some].T).max())
    yield Row(
        f"batch of {len(some)} x {len(some)}", seconds, against="pycocoevalcap (extrapolated)",
        plain=slow / sample * len(some) ** 2, difference=gap,
    )  # fmt: skip
    yield Row("best 30 images of each caption", timed(lambda: index.topk(30))[0])


def sentences(count: int) -> tuple[list[str], str]:
    shared = Path(os.environ.get("ITM_SHARED", Path(__file__).parents[2] / "shared"))
    path = shared / "data/captions/coco_precomp/testall_caps.txt"
    if path.is_file():
        return path.read_text().lower().splitlines()[:count], "COCO captions"
    rng = np.random.default_rng(0)
    words = rng.zipf(1.3, (count, 11)) % 10_000
    return [" ".join(f"w{word}" for word in row) for row in words], "random words"


def package(lines, references, c, i) -> tuple[float, np.ndarray]:
    """Measure seconds and scores of the sample with pycocoevalcap.

    The package counts document frequencies over the sets that it gets, so it gets all images once;
    the sample is scored with these frequencies. The time excludes counting.
    """
    corpus, sample = CiderScorer(), CiderScorer()
    for group in references:
        corpus += (group[0], group)
    corpus.compute_doc_freq()

    def scores():
        for a, b in zip(c, i, strict=True):
            sample.cook_append(lines[a], references[b])
        sample.document_frequency = corpus.document_frequency
        sample.crefs = _Sized(sample.crefs, len(references))
        return np.array(sample.compute_cider())

    return timed(scores)


class _Sized(list):
    """List that reports the size of the corpus, because the package takes log(images) from it."""

    def __init__(self, items, size):
        super().__init__(items)
        self.size = size

    def __len__(self):
        return self.size
