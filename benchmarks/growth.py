"""Show how time and memory grow with captions, images, regions, words and batch.

Each row doubles or more what its name says and keeps the rest. The note gives time and memory of
every size and the exponents between the first and the last, time ~ n^a and memory ~ n^b. Rows of
pairs give exponents of the number of pairs. SUPERLINEAR marks a time exponent above 1.15.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from benchmarks.measure import Row, alone, training_step
from benchmarks.startup import corpus, start
from itm.batch import Captions, Encoded, Images, Pairs
from itm.data import RegionDataModule
from itm.losses import Triplet
from itm.metrics.retrieval import ranks
from itm.models import SCAN

MOST = 1.15  # the exponent above which a row is marked
SIZES = {
    "tiny": {"captions": (200, 400), "images": (8, 16), "regions": (4, 8), "words": (4, 8),
             "batch": (4, 8)},
    "small": {"captions": (30_000, 120_000), "images": (250, 1000), "regions": (18, 72),
              "words": (8, 32), "batch": (32, 128)},
    "paper": {"captions": (30_000, 120_000, 566_435), "images": (250, 1000, 5000),
              "regions": (18, 36, 72), "words": (8, 16, 32), "batch": (32, 64, 128)},
}  # fmt: skip
WIDTH = 256  # D of the models, F of the features


def rows(size: str) -> Iterator[Row]:
    sizes = SIZES[size]
    texts = corpus(max(sizes["captions"]))
    yield grow(
        "start of CASC, captions",
        sizes["captions"],
        lambda n: lambda: start(texts[:n], True, cache=False),
    )
    with tempfile.TemporaryDirectory() as folder:
        yield grow(
            "start and 10 steps of SCAN's training, captions",
            sizes["captions"],
            lambda n: training(Path(folder) / str(n), texts[:n]),
        )
    yield grow("SCAN t2i, N images x 100 captions", sizes["images"], scoring)
    yield grow("ranks of N x 5 N, pairs", sizes["images"], ranking, power=2)
    yield grow("SCAN step, regions", sizes["regions"], lambda n: step(regions=n))
    yield grow("SCAN step, words", sizes["words"], lambda n: step(words=n))
    yield grow("SCAN step, pairs of a batch", sizes["batch"], lambda n: step(batch=n), power=2)


def grow(
    task: str, sizes: Sequence[int], make: Callable[[int], Callable[[], Any]], power: int = 1
) -> Row:
    """Measure a task at each size; the row holds the largest."""
    runs = [alone(make(n)) for n in sizes]
    ratio = math.log(sizes[-1] / sizes[0]) * power
    time = math.log(runs[-1].seconds / runs[0].seconds) / ratio
    shown = ", ".join(
        f"{n:,}: {run.seconds:.2g} s" + ("" if run.bytes is None else f" {run.bytes >> 20} MiB")
        for n, run in zip(sizes, runs, strict=True)
    )
    note = f"{shown}; time ~ n^{time:.2f}"
    if all(run.bytes is not None and run.bytes > 1 << 20 for run in runs):
        memory = math.log((runs[-1].bytes or 1) / (runs[0].bytes or 1)) / ratio
        note += f", memory ~ n^{memory:.2f}"
    if time > MOST:
        note += "; SUPERLINEAR"
    return Row(task, runs[-1].seconds, bytes=runs[-1].bytes, note=note)


def training(folder: Path, texts: list[str]) -> Callable[[], Any]:
    """Train on small features of an image for every five captions; validation is small."""
    folder.mkdir()
    for split, captions in (("train", texts), ("dev", texts[:50])):
        features = np.random.default_rng(0).normal(size=(len(captions) // 5, 4, 16))
        np.save(folder / f"{split}_ims.npy", features.astype(np.float16))
        (folder / f"{split}_caps.txt").write_text("\n".join(captions) + "\n")

    def run() -> float:
        data = RegionDataModule(folder, batch_size=128, cache_words=False)
        matcher = SCAN(img_dim=16, embed_dim=64, word_dim=64, loss=Triplet())
        trainer = pl.Trainer(
            max_steps=10, limit_val_batches=0, accelerator="cpu", logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(matcher, data)
        return float(trainer.callback_metrics["train/loss"])

    return run


def scoring(images: int) -> Callable[[], torch.Tensor]:
    """Score images with 100 captions from encodings."""
    matcher = SCAN(vocab_size=50, img_dim=8, embed_dim=WIDTH).eval()
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(images, 36, dtype=torch.bool)
    captions = Encoded(
        None, torch.rand(100, 12, WIDTH, generator=generator), torch.ones(100, 12, dtype=torch.bool)
    )
    regions = torch.rand(images, 36, WIDTH, generator=generator)

    def run() -> torch.Tensor:
        with torch.no_grad():
            chunks = zip(regions.split(128), mask.split(128), strict=True)
            return torch.cat([matcher.similarity(Encoded(None, *x), captions) for x in chunks])

    return run


def ranking(images: int) -> Callable[[], Any]:
    """Rank a matrix of images and five captions for each."""
    scores = np.random.default_rng(0).random((images, 5 * images), np.float32)
    return lambda: [np.asarray(x) for x in ranks(scores)]


def step(regions: int = 36, words: int = 12, batch: int = 32) -> Callable[[], Any]:
    """Make a training step of SCAN."""
    torch.manual_seed(0)
    matcher = SCAN(vocab_size=2000, img_dim=WIDTH, embed_dim=WIDTH, loss=Triplet())
    rows = torch.arange(batch)
    tokens = torch.randint(4, 2000, (batch, words))
    images = Images(
        torch.rand(batch, regions, WIDTH), torch.ones(batch, regions, dtype=torch.bool), rows
    )
    pairs = Pairs(images, Captions(tokens, (words,) * batch, rows, rows))
    return training_step(matcher, pairs)
