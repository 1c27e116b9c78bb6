"""Measure on a GPU how fast encodings of images and captions are scored."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_clock import autocast, matmul_precision, measured, memory
from benchmarks.gpu_inputs import Row, matchers, random_sides
from benchmarks.measure import lengths_of
from itm.batch import Chunk
from itm.matcher.blocks import similarity_matrix

PRECISIONS = {
    "bf16": (torch.bfloat16, "highest"),
    "tf32": (torch.float32, "high"),
    "fp32": (torch.float32, "highest"),
}


def scoring(device: torch.device, size: dict[str, Any]) -> Iterator[Row]:
    """Score images x 5 captions from encodings, and beside it a loop over captions.

    "gap" is the largest difference of the scores in large and in small blocks, or of the loop and
    the matcher.
    """
    images = size["images"]
    lengths = torch.tensor(sorted(lengths_of(5 * images)))
    sides = random_sides(images, lengths, size["width"], device)
    large: dict[str, np.ndarray] = {}

    def matrix(name: str, precision: str, gib: int) -> dict[str, Any]:
        dtype, products = PRECISIONS[precision]
        torch.manual_seed(0)  # the same weights for every size of blocks
        matcher = matchers(size)[name]().eval().to(device)
        found = np.empty(0)

        def score() -> None:
            nonlocal found
            floats = matcher.pair_floats
            found = similarity_matrix(matcher.similarity, *sides, floats, device, gib << 30)

        with torch.no_grad(), autocast(device, dtype), matmul_precision(products):
            seconds = measured(score, device, 1)
        other = large.get(f"{name} {precision}")  # None if it failed
        large.setdefault(f"{name} {precision}", found)
        gap = {} if other is None else {"gap": float(np.abs(found - other).max())}
        speed = {"seconds": seconds, "pairs_per_second": 5 * images**2 / seconds}
        return speed | gap | memory(device)

    def plain() -> dict[str, Any]:
        """Score with SCAN t2i as the original does, caption after caption; 256 captions."""
        regions = torch.cat([encoded.parts for encoded, _ in sides[0]])
        chunk = sides[1][len(sides[1]) // 2]  # captions of middling length, as they are sorted
        texts = list(zip(chunk[0].parts, chunk[0].aux["lengths"].tolist(), strict=True))
        columns: list[torch.Tensor] = []

        def score() -> None:
            columns.clear()
            for words, length in texts:
                words = words[:length]
                products = torch.nn.functional.leaky_relu(regions @ words.T, 0.1)
                unit = torch.nn.functional.normalize(products, dim=-1)
                context = torch.softmax(9 * unit, 1).mT @ regions
                cosines = torch.nn.functional.cosine_similarity(context, words[None], -1)
                columns.append(cosines.mean(-1).cpu())

        with torch.no_grad():
            seconds = measured(score, device, 1)
            gap = torch.stack(columns, 1).numpy() - by_matcher(chunk)
        return {
            "pairs_per_second": images * len(texts) / seconds,
            "gap": float(np.abs(gap).max()),
        }

    def by_matcher(chunk: Chunk) -> np.ndarray:
        encoded, rows = chunk
        matcher = matchers(size)["SCAN t2i"]().eval().to(device)
        texts = [(encoded, torch.arange(len(rows)))]
        return similarity_matrix(
            matcher.similarity, sides[0], texts, matcher.pair_floats, device, 1 << 30
        )

    yield "SCAN t2i fp32, a plain loop over captions", plain
    for name in ("SCAN t2i", "SCAN i2t", "CASC", "SGR", "SAF"):
        for precision in PRECISIONS:
            for gib in (16, 1):
                yield (
                    f"{name} {precision} {gib} GiB",
                    lambda n=name, p=precision, g=gib: matrix(n, p, g),
                )
