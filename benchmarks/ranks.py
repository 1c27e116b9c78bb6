"""Ranks and recalls by counting against the loop of the original code and against torchmetrics.

The loop sorts every list with numpy and looks for the right items, as VSE++ and its descendants do.
torchmetrics' RetrievalHitRate wants the flattened matrix once per direction and K; one K is timed
(we compute all of them). Processor seconds of one thread.

    python benchmarks/ranks.py [--images 1000] [--width 64] [--full]
"""

import argparse
import time
import warnings

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torchmetrics.retrieval import RetrievalHitRate

from itm.metrics import evaluate, evaluate_vectors, ranks, recall


def timed(function, runs=1):
    start = time.process_time()
    for _ in range(runs):
        result = function()
    return result, (time.process_time() - start) / runs


def loop(scores):
    n = len(scores)
    i2t, t2i = np.zeros(n, int), np.zeros(5 * n, int)
    for i in range(n):
        order = np.argsort(scores[i])[::-1]
        i2t[i] = min(np.where(order == c)[0][0] for c in range(5 * i, 5 * i + 5))
    for c in range(5 * n):
        order = np.argsort(scores[:, c])[::-1]
        t2i[c] = np.where(order == c // 5)[0][0]
    return i2t, t2i


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--full", action="store_true", help="add COCO 5K, ours alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="torchmetrics")

    def make(n):
        rng = np.random.default_rng(0)
        images = rng.standard_normal((n, options.width), np.float32)
        noise = rng.standard_normal((5 * n, options.width), np.float32)
        return images, np.repeat(images, 5, axis=0) + 2 * noise

    images, captions = make(options.images)
    scores = images @ captions.T
    title = f"{options.images} images x {5 * options.images} captions, processor seconds"
    table = Table("", "seconds", "ratio", "agrees", title=title)
    ours, fast = timed(lambda: ranks(scores), 3)
    theirs, slow = timed(lambda: loop(scores))
    # float32 scores tie now and then, and an unstable sort breaks ties as it likes
    close = np.mean([*(ours[0] == theirs[0]), *(ours[1] == theirs[1])])
    rates, flat = timed(lambda: hit_rate(torch.from_numpy(scores), 5))
    agree = np.allclose(rates, [recall(x, 5) for x in ours], atol=0.05)
    streamed, stream = timed(lambda: evaluate_vectors(images, captions), 3)
    matrix = evaluate(scores)
    table.add_row("counting, all K, both directions", f"{fast:.3f}", "1", "")
    table.add_row(
        "numpy loop", f"{slow:.3f}", f"{slow / fast:.0f}", f"{100 * close:.2f} % of ranks"
    )
    table.add_row("torchmetrics, one K", f"{flat:.3f}", f"{flat / fast:.0f}", f"recall@5 {agree}")
    gap = f"rsum within {abs(streamed['rsum'] - matrix['rsum']):.2g}"
    table.add_row("counting from vectors", f"{stream:.3f}", f"{stream / fast:.1f}", gap)
    if options.full:
        images, captions = make(5000)
        scores = images @ captions.T
        table.add_section()
        for name, function in (
            ("coco_5k", lambda: evaluate(scores, protocol="coco_5k")),
            ("coco_1k", lambda: evaluate(scores, protocol="coco_1k")),
            (
                "coco_5k from vectors",
                lambda: evaluate_vectors(images, captions, protocol="coco_5k"),
            ),
        ):
            table.add_row(name, f"{timed(function)[1]:.3f}", "", "")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
