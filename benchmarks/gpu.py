"""Measure on a GPU within eight minutes: JSON lines, correctness first, a deadline for each part.

    python -m benchmarks.gpu                          # everything, at the papers' sizes
    python -m benchmarks.gpu only=training,scoring    # some parts
    python -m benchmarks.gpu device=cpu size=tiny     # check that everything runs

Each line is a JSON object with "part" and "name"; the first names the card. A part starts no new
row after its deadline and says which rows it left out, so a time limit loses the end, not the
result. Times of kernels are taken by events on the device, "busy" is the share of a step in which
a kernel runs, and "waits" counts how often a step waits for the device.
"""

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from benchmarks import loader
from benchmarks.gpu_clock import autocast, kernels, matmul_precision, measured, memory, waits
from benchmarks.gpu_correctness import correctness
from benchmarks.gpu_inputs import (
    REGIONS,
    SIZES,
    Row,
    batch_of,
    matchers,
    plain_data,
    random_sides,
    vocabulary,
)
from benchmarks.measure import lengths_of
from itm.data import RegionDataModule
from itm.losses import Triplet
from itm.matcher.blocks import similarity_matrix
from itm.models import SCAN

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> None:
    options = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    known = {"device": "cuda", "size": "paper", "only": ",".join(PARTS)}
    if options.keys() - known.keys():
        raise SystemExit(__doc__)
    options = {**known, **options}
    device, parts = torch.device(options["device"]), options["only"].split(",")
    if set(parts) - PARTS.keys() or options["size"] not in SIZES:
        raise SystemExit(f"only= takes {', '.join(PARTS)}; size= takes {', '.join(SIZES)}")
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # whose events and memory are measured
    say("machine", torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        torch=torch.__version__, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(),
        size=options["size"])  # fmt: skip
    for part in parts:
        make, seconds = PARTS[part]
        run(part, make(device, SIZES[options["size"]]), seconds)


def say(part: str, name: str, **values: Any) -> None:
    print(json.dumps({"part": part, "name": name, **values}), flush=True)


def run(part: str, rows: Iterator[Row], seconds: float) -> None:
    """Measure rows until the deadline of a part; a row that fails is a line, not the end."""
    end, left = time.monotonic() + seconds, []
    for name, measure in rows:
        if time.monotonic() > end:
            left.append(name)
            continue
        gc.collect()  # a trainer and its matcher refer to each other: their memory is freed here
        try:
            say(part, name, **measure())
        except Exception as error:
            say(part, name, error=f"{type(error).__name__}: {error}")
    if left:
        say(part, "left out after the deadline", rows=left)


# What is measured ---------------------------------------------------------------------------------


def ceilings(device: torch.device, size: dict[str, Any]) -> Iterator[Row]:
    """Measure what the card reaches: products and copies."""
    n = size["product"]

    def product(dtype: torch.dtype, tf32: bool = False) -> dict[str, Any]:
        a, b = torch.randn(2, n, n, device=device).to(dtype)
        with matmul_precision("high" if tf32 else "highest"):
            seconds = measured(lambda: a @ b, device, 10)
        return {"tflops": 2 * n**3 / seconds / 1e12}

    def copy(pinned: bool) -> dict[str, Any]:
        host = torch.empty(n, n, pin_memory=pinned and device.type == "cuda")
        there = torch.empty(n, n, device=device)
        seconds = measured(lambda: there.copy_(host, non_blocking=pinned), device, 5)
        return {"gbytes_per_second": 4 * n * n / seconds / 1e9}

    yield "product bf16", lambda: product(torch.bfloat16)
    yield "product fp32", lambda: product(torch.float32)
    yield "product tf32", lambda: product(torch.float32, True)
    yield "copy from pinned memory", lambda: copy(True)
    yield "copy from pageable memory", lambda: copy(False)


def steps(
    name: str, device: torch.device, size: dict[str, Any], dtype: torch.dtype, compiled: bool
) -> dict[str, Any]:
    """Measure the training steps of a matcher: forward, loss, backward, clipping, update."""
    matcher = matchers(size)[name]().train().to(device)
    if compiled:
        matcher.compile()
    pairs = batch_of(name, matcher, size["batch"], size)
    pairs = matcher.transfer_batch_to_device(pairs, device, 0)
    optimizer = torch.optim.Adam(matcher.parameters(), lr=2e-4)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(device, dtype):
            loss = matcher.losses(pairs)["total"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(matcher.parameters(), 2.0)
        optimizer.step()

    seconds = measured(step, device, 10)
    found = {"ms": 1e3 * seconds, "pairs_per_second": size["batch"] / seconds} | memory(device)
    try:
        found |= waits(step, device)
        found |= kernels(step, device, seconds)
    except Exception as error:  # the time was measured all the same
        found["not_counted"] = f"{type(error).__name__}: {error}"
    return found


def training(device: torch.device, size: dict[str, Any]) -> Iterator[Row]:
    """Measure the training steps of every matcher."""
    for precision, dtype in PRECISIONS.items():
        for name in matchers(size):
            yield (
                f"{name} {precision}",
                lambda name=name, dtype=dtype: steps(name, device, size, dtype, False),
            )


def scoring(device: torch.device, size: dict[str, Any]) -> Iterator[Row]:
    """Score images x 5 captions from encodings, and beside it a loop over captions."""
    images = size["images"]
    lengths = torch.tensor(sorted(lengths_of(5 * images)))
    sides = random_sides(images, lengths, size["width"], device)

    def matrix(name: str, dtype: torch.dtype, tf32: bool, budget: int) -> dict[str, Any]:
        matcher = matchers(size)[name]().eval().to(device)
        with (
            torch.no_grad(),
            autocast(device, dtype),
            matmul_precision("high" if tf32 else "highest"),
        ):

            def score() -> None:
                floats = matcher.pair_floats
                similarity_matrix(matcher.similarity, *sides, floats, device, budget)

            seconds = measured(score, device, 1)
        return {"seconds": seconds, "pairs_per_second": 5 * images**2 / seconds} | memory(device)

    def plain() -> dict[str, Any]:
        """Score with SCAN t2i as the original does, caption after caption; 256 captions."""
        regions = torch.cat([encoded.parts for encoded, _ in sides[0]])
        first = sides[1][len(sides[1]) // 2][0]  # captions of middling length, as they are sorted
        texts = list(zip(first.parts, first.aux["lengths"].tolist(), strict=True))

        def score() -> None:
            for words, length in texts:
                words = words[:length]
                products = torch.nn.functional.leaky_relu(regions @ words.T, 0.1)
                unit = torch.nn.functional.normalize(products, dim=-1)
                context = torch.softmax(9 * unit, 1).mT @ regions
                torch.nn.functional.cosine_similarity(context, words[None], -1).mean(-1).cpu()

        with torch.no_grad():
            seconds = measured(score, device, 1)
        return {"pairs_per_second": images * len(texts) / seconds}

    yield "SCAN t2i fp32, a plain loop over captions", plain
    for name in ("SCAN t2i", "SCAN i2t", "CASC", "SGR", "SAF"):
        for title, dtype, tf32 in (("bf16", torch.bfloat16, False), ("tf32", torch.float32, True),
                                   ("fp32", torch.float32, False)):  # fmt: skip
            for gib in (16, 1):
                yield (
                    f"{name} {title} {gib} GiB",
                    lambda n=name, d=dtype, t=tf32, g=gib: matrix(n, d, t, g << 30),
                )


def from_host(device: torch.device, size: dict[str, Any]) -> Iterator[Row]:
    """Measure `Matcher.score` from arrays and sentences."""

    def score(name: str) -> dict[str, Any]:
        matcher = matchers(size)[name]().eval().to(device)
        matcher.vocab = vocabulary()
        inputs = plain_data(size["images"], size)
        return {"seconds": measured(lambda: matcher.score(*inputs), device, 1)}

    for name in ("SCAN t2i", "VSRN"):
        yield name, lambda name=name: score(name)


def fits(device: torch.device, size: dict[str, Any]) -> Iterator[Row]:
    """Train with Lightning from a folder, with several ways of loading."""

    def fit(**loading: Any) -> dict[str, Any]:
        count = size["batch"] * min(20, size["steps"])
        with tempfile.TemporaryDirectory() as folder:
            loader.write(Path(folder), (count, REGIONS, size["features"]), np.float16)
            data = RegionDataModule(folder, batch_size=size["batch"], min_count=1, **loading)
            data.setup()
            matcher = SCAN(len(data.vocabulary), size["features"], embed_dim=size["width"],
                           loss=Triplet())  # fmt: skip
            clock = Clock(size["steps"])
            trainer = pl.Trainer(
                callbacks=[clock],
                accelerator="gpu" if device.type == "cuda" else "cpu", logger=False,
                devices=[device.index or 0] if device.type == "cuda" else 1,
                precision="bf16-mixed" if device.type == "cuda" else "32-true",
                max_steps=size["steps"], limit_val_batches=0, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False,
            )  # fmt: skip
            start = time.monotonic()
            trainer.fit(matcher, data)
            seconds = time.monotonic() - start
        (first, began), (last, ended) = clock.marks
        return {"seconds": seconds, "steps_per_second": (last - first) / (ended - began)}

    yield "workers=0", lambda: fit()
    if device.type == "cuda":
        yield "workers=8, pinned", lambda: fit(workers=8, pin_memory=True)
        yield "resident in bfloat16", lambda: fit(resident="bfloat16")


class Clock(pl.Callback):
    """Note the time after half of the steps and at the end, so that the start does not count.

    Args:
        steps: number of steps of the training.
    """

    def __init__(self, steps: int):
        self.places = (steps // 2, steps)
        self.marks: list[tuple[int, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step in self.places:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.marks.append((trainer.global_step, time.monotonic()))


def compiling(device: torch.device, size: dict[str, Any]) -> Iterator[Row]:
    """Measure compiled training steps; the last part, because compiling takes longest."""
    for name in ("SCAN t2i", "VSRN") if device.type == "cuda" else ():
        yield f"{name} bf16", lambda name=name: steps(name, device, size, torch.bfloat16, True)


PARTS: dict[str, tuple[Callable[[torch.device, dict[str, Any]], Iterator[Row]], float]] = {
    "ceilings": (ceilings, 20),
    "correctness": (correctness, 60),
    "training": (training, 150),
    "scoring": (scoring, 60),
    "from_host": (from_host, 20),
    "fits": (fits, 60),
    "compiling": (compiling, 60),
}  # seconds of each part


if __name__ == "__main__":
    main()
