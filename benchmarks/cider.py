"""CIDEr-D as sparse products against pycocoevalcap, on a caption file in SCAN layout.

pycocoevalcap scores one (caption, image) pair after the other; a sample of pairs is timed and its
numbers are compared with ours. Rates are processor time per pair of one thread, so that other work
on the machine does not count.

    python benchmarks/cider.py ../shared/data/captions/coco_precomp/testall_caps.txt [--pairs 1000]
"""

import argparse
import time

import numpy as np
from pycocoevalcap.cider.cider_scorer import CiderScorer
from rich.console import Console
from rich.table import Table

from itm.relevance import CiderIndex, group_captions


def timed(function, runs=1):
    start = time.process_time()
    for _ in range(runs):
        result = function()
    return result, (time.process_time() - start) / runs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("captions", help="one caption per line, five lines per image")
    parser.add_argument("--pairs", type=int, default=1000, help="sample for pycocoevalcap")
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()

    with open(options.captions) as file:
        lines = file.read().lower().splitlines()
    image = np.arange(len(lines)) // 5
    references = group_captions(lines, image)
    M, N = len(lines), len(references)
    rng = np.random.default_rng(0)
    c, i = rng.integers(0, M, options.pairs), rng.integers(0, N, options.pairs)
    c[::10] = i[::10] * 5  # some own captions

    # The package counts document frequencies over the sets it is given: all images once, and the
    # sample's scores are read with these frequencies. Counting is not part of the time.
    corpus, sample = CiderScorer(), CiderScorer()
    for group in references:
        corpus += (group[0], group)
    corpus.compute_doc_freq()

    def package():
        for a, b in zip(c, i, strict=True):
            sample.cook_append(lines[a], references[b])
        sample.document_frequency = corpus.document_frequency
        sample.crefs, crefs = _Sized(sample.crefs, N), sample.crefs
        scores = np.array(sample.compute_cider())
        sample.crefs = crefs
        return scores

    theirs, slow = timed(package)
    slow /= options.pairs
    index, build = timed(lambda: CiderIndex(lines, image, dtype=np.float64))
    matrix, full = timed(index.matrix)
    difference = np.abs(matrix[c, i] - theirs).max()
    single, build32 = timed(lambda: CiderIndex(lines, image))
    matrix32, full32 = timed(single.matrix)
    difference32 = np.abs(matrix32[c, i] - theirs).max()
    rows = rng.permutation(N)[: options.batch]
    batch = rows * 5 + rng.integers(0, 5, len(rows))
    block, step = timed(lambda: single.batch(batch, rows), 20)
    step_difference = np.abs(block - matrix[batch][:, rows].T).max()
    _, lists = timed(lambda: single.topk(30))

    title = f"{M} captions x {N} images, processor seconds of one thread"
    table = Table(
        "", "seconds", "us per pair", "times pycocoevalcap", "largest difference", title=title
    )

    def add(name, seconds, pairs, gap):
        per_pair = seconds / pairs
        gap = "" if gap is None else f"{gap:.1e}"
        ratio = f"{slow / per_pair:,.0f}"
        table.add_row(name, f"{seconds:.3f}", f"{1e6 * per_pair:.3f}", ratio, gap)

    add(f"pycocoevalcap, {options.pairs} pairs", slow * options.pairs, options.pairs, None)
    add("all pairs, float64, with its index", build + full, M * N, difference)
    add("all pairs, float32, with its index", build32 + full32, M * N, difference32)
    add("best 30 images of each caption", lists, M * N, None)
    add(f"batch of {len(rows)} x {len(rows)}", step, len(rows) ** 2, step_difference)
    Console(width=120).print(table)


class _Sized(list):
    """A list that reports the corpus size, from which the package takes log(images)."""

    def __init__(self, items, size):
        super().__init__(items)
        self.size = size

    def __len__(self):
        return self.size


if __name__ == "__main__":
    main()
