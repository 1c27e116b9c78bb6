"""Measure the time of one query among many vectors, and the recall of the approximate index.

Vectors form clusters, as similar images do: unit vectors around `size / 100` centres. Queries are
`far` standard deviations (of the noise within a cluster) away from vectors of the collection:
far=0.2 is a near copy; far=5 is outside all clusters, as a sentence may be among images.
"""

from collections.abc import Iterator
from importlib.util import find_spec

import torch

from benchmarks.measure import Row, timed
from itm.index.nearest import Nearest

WIDTH, K, QUERIES, NOISE = 256, 10, 100, 0.5
SIZES = {"tiny": (2000, 400), "small": (20_000, 4000), "paper": (1_000_000, 20_000)}


def rows(size: str) -> Iterator[Row]:
    for kind, count in zip(("ivf", "hnsw"), SIZES[size], strict=True):
        if not find_spec("faiss"):
            return
        vectors = collection(count)
        built, nearest = timed(lambda v=vectors, k=kind: Nearest(v, k))
        for far in (0.2, 2.0, 5.0):
            every = queries(vectors, far)
            plain, truth = timed(lambda v=vectors, q=every: [(v @ x).topk(K).indices for x in q])
            seconds, found = timed(lambda q=every, n=nearest: [n.find(x, K) for x in q])
            pairs = zip(found, truth, strict=True)
            share = sum(len(set(a.tolist()) & set(b.tolist())) for a, b in pairs) / (K * QUERIES)
            yield Row(
                f"{QUERIES} queries among {count:,}, {kind}, far={far}",
                seconds,
                against="all scores, topk",
                plain=plain,
                note=f"recall@10 {share:.3f}, built in {built:.0f} s",
            )


def collection(size):
    """Make (size, 256) unit vectors."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(max(1, size // 100), WIDTH, generator=generator)
    vectors = torch.empty(size, WIDTH)
    for block in vectors.split(50_000):
        own = torch.randint(len(centres), (len(block),), generator=generator)
        block.normal_(generator=generator).mul_(NOISE).add_(centres[own])
        block /= block.norm(dim=1, keepdim=True)
    return vectors


def queries(vectors, far):
    """Make (100, 256) unit vectors."""
    generator = torch.Generator().manual_seed(1)
    near = vectors[torch.randint(len(vectors), (QUERIES,), generator=generator)]
    scale = far * NOISE / (1 + NOISE**2) ** 0.5 / WIDTH**0.5  # per value of unit vectors
    moved = near + scale * torch.randn(QUERIES, WIDTH, generator=generator)
    return moved / moved.norm(dim=1, keepdim=True)
