"""How long one query takes, and what the approximate index misses.

    python benchmarks/search.py                  # 20,000 vectors of 256 values: seconds
    python benchmarks/search.py size=1000000     # about 2 GB of memory
    python benchmarks/search.py size=200000 kind=hnsw

Vectors are clustered as those of similar images are: unit vectors around `size / 100` centres.
Queries stand `far` standard deviations (of the noise within a cluster) from vectors of the
collection: far=0.2 is a near copy; far=5 lies outside all clusters, as sentences may among images.
"""

import sys
import time
from statistics import median

import torch

from itm.nearest import Nearest

WIDTH, K, QUERIES, NOISE = 256, 10, 100, 0.5


def collection(size):
    """(size, 256) unit vectors."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(max(1, size // 100), WIDTH, generator=generator)
    vectors = torch.empty(size, WIDTH)
    for block in vectors.split(50_000):
        own = torch.randint(len(centres), (len(block),), generator=generator)
        block.normal_(generator=generator).mul_(NOISE).add_(centres[own])
        block /= block.norm(dim=1, keepdim=True)
    return vectors


def queries(vectors, far):
    """(100, 256) unit vectors."""
    generator = torch.Generator().manual_seed(1)
    near = vectors[torch.randint(len(vectors), (QUERIES,), generator=generator)]
    scale = far * NOISE / (1 + NOISE**2) ** 0.5 / WIDTH**0.5  # of values of unit vectors
    moved = near + scale * torch.randn(QUERIES, WIDTH, generator=generator)
    return moved / moved.norm(dim=1, keepdim=True)


def ask(nearest, every, exact):
    """Rows found for every query, and the milliseconds of each."""
    found, times = [], []
    for query in every:
        start = time.perf_counter()
        found.append(nearest.find(query, K, exact))
        times.append(1000 * (time.perf_counter() - start))
    return found, times


def main():
    options = dict(argument.split("=") for argument in sys.argv[1:])
    size = int(options.get("size", 20_000))
    kind = options.get("kind", "ivf")
    vectors = collection(size)
    start = time.perf_counter()
    nearest = Nearest(vectors, kind)
    built = time.perf_counter() - start
    print(f"{size:,} vectors, {torch.get_num_threads()} threads, {kind} built in {built:.1f} s")
    print(f"{'far':>4} {'recall@10':>9} {'median ms':>9} {'95 % ms':>8} {'exact ms':>8}")
    for far in (0.2, 2.0, 5.0):
        every = queries(vectors, far)
        truth = (every @ vectors.T).topk(K).indices
        _, exact = ask(nearest, every[:10], True)
        found, times = ask(nearest, every, False)
        pairs = zip(found, truth, strict=True)
        share = sum(len(set(a.tolist()) & set(b.tolist())) for a, b in pairs) / (K * QUERIES)
        late = sorted(times)[int(0.95 * QUERIES)]
        print(f"{far:4} {share:9.3f} {median(times):9.2f} {late:8.2f} {median(exact):8.1f}")


if __name__ == "__main__":
    main()
