"""Compare ranks and recalls by counting with the loop of the original code and with torchmetrics.

The loop sorts every list with numpy and looks for the right items, as VSE++ and its successors do.
torchmetrics' RetrievalHitRate needs the flattened matrix once per direction and K. Only one K is
timed, whereas itm computes all of them.
"""

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torchmetrics.retrieval import RetrievalHitRate

from benchmarks.measure import Row, alone
from itm.metrics.retrieval import evaluate, evaluate_vectors, ranks, recall

SIZES = {"tiny": (50, 50), "small": (300, 2000), "paper": (1000, 5000)}  # compared, full


def rows(size: str) -> Iterator[Row]:
    warnings.filterwarnings("ignore", module="torchmetrics")
    few, many = SIZES[size]
    images, captions = vectors(few)
    scores = images @ captions.T
    task = f"ranks of {few} x {5 * few}, both directions"
    ours, plain = alone(lambda: by_counting(scores)), alone(lambda: by_loop(scores))
    # float32 scores can be equal, and an unstable sort orders ties arbitrarily
    same = np.mean(np.concatenate(ours.result) == np.concatenate(plain.result))
    if same < 0.999:
        raise ValueError(f"only {100 * same:.2f} % of the ranks agree with the loop")
    row = Row(task, ours.seconds, bytes=ours.bytes, against="numpy loop", plain=plain.seconds)
    yield row._replace(plain_bytes=plain.bytes, note=f"{100 * same:.2f} % of ranks equal")
    other = alone(lambda: torch.tensor(hit_rate(torch.from_numpy(scores), 5)))
    rates = [recall(x, 5) for x in ours.result]
    gap = float(np.abs(other.result[0] - rates).max())
    if gap > 0.05:
        raise ValueError(f"recall@5 differs from torchmetrics by {gap}")
    yield row._replace(
        against="torchmetrics, one K", plain=other.seconds, plain_bytes=other.bytes,
        note=f"recall@5 within {gap:.2g}",
    )  # fmt: skip
    images, captions = vectors(many)
    scores = images @ captions.T
    whole = alone(lambda: by_counting(scores))
    task = f"ranks of {many} x {5 * many}, both directions"
    yield Row(task, whole.seconds, bytes=whole.bytes, targets={"seconds": 5.0})
    protocol = "coco_5k" if many == 5000 else "full"
    table = alone(lambda: torch.tensor(evaluate(scores, protocol=protocol)["rsum"]))
    stream = alone(
        lambda: torch.tensor(evaluate_vectors(images, captions, protocol=protocol)["rsum"])
    )
    gap = abs(float(table.result[0] - stream.result[0]))
    yield Row(f"the same and all metrics, {protocol}", table.seconds, bytes=table.bytes)
    task = "the same from vectors, no matrix held"
    yield Row(task, stream.seconds, bytes=stream.bytes, note=f"rsum within {gap:.2g}")


def vectors(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((n, 64), np.float32)
    noise = rng.standard_normal((5 * n, 64), np.float32)
    return images, np.repeat(images, 5, axis=0) + 2 * noise


def by_counting(scores):
    return [torch.as_tensor(x) for x in ranks(scores)]


def by_loop(scores):
    n = len(scores)
    i2t, t2i = np.zeros(n, int), np.zeros(5 * n, int)
    for i in range(n):
        order = np.argsort(scores[i])[::-1]
        i2t[i] = min(np.where(order == c)[0][0] for c in range(5 * i, 5 * i + 5))
    for c in range(5 * n):
        order = np.argsort(scores[:, c])[::-1]
        t2i[c] = np.where(order == c // 5)[0][0]
    return [torch.from_numpy(x) for x in (i2t, t2i)]


def hit_rate(scores, k):
    n = len(scores)
    own = torch.arange(5 * n) // 5 == torch.arange(n)[:, None]
    result = []
    for values, target in ((scores, own), (scores.T, own.T)):
        metric = RetrievalHitRate(top_k=k)
        queries = torch.arange(len(values))[:, None].expand(values.shape)
        metric.update(values.flatten(), target.flatten(), queries.flatten())
        result.append(100 * float(metric.compute()))
    return result
