"""Measure on a GPU within eight minutes: JSON lines, correctness first, a deadline for each part.

    python -m benchmarks.gpu                          # everything, at the papers' sizes
    python -m benchmarks.gpu only=training,scoring    # some parts
    python -m benchmarks.gpu device=cpu size=tiny     # check that everything runs

Each line is a JSON object with "part" and "name"; the first names the card. A part starts no new
row after its deadline and says which rows it left out, so a time limit loses the end, not the
result. Times are taken by events on the device, "waits" counts how often a step waits for it, and
"kernel_ms" is the time of a step in which kernels run, to compare with "ms" of the training. The
lines are also written to gpu.jsonl in the folder that the environment names as OUT, if it does.
"""

import gc
import json
import os
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
from benchmarks.gpu_clock import matmul_precision, measured
from benchmarks.gpu_correctness import correctness
from benchmarks.gpu_inputs import REGIONS, SIZES, Row, matchers, plain_data, vocabulary
from benchmarks.gpu_scoring import scoring
from benchmarks.gpu_steps import compiling, counting, training
from itm.data import RegionDataModule
from itm.losses import Triplet
from itm.models import SCAN


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
    torch.set_float32_matmul_precision("highest")  # whatever the environment says
    say("machine", torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        torch=torch.__version__, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(),
        grus_in_tf32=torch.backends.cudnn.allow_tf32, size=options["size"])  # fmt: skip
    for part in parts:
        make, seconds = PARTS[part]
        run(part, make(device, SIZES[options["size"]]), seconds)


def say(part: str, name: str, **values: Any) -> None:
    """Print a line with four digits of each number, so that a limited output holds all lines."""
    short = {k: float(f"{x:.4g}") if isinstance(x, float) else x for k, x in values.items()}
    line = json.dumps({"part": part, "name": name, **short}, separators=(",", ":"))
    print(line, flush=True)
    if folder := os.environ.get("OUT"):
        with open(Path(folder) / "gpu.jsonl", "a") as file:
            print(line, file=file)


def run(part: str, rows: Iterator[Row], seconds: float) -> None:
    """Measure rows until the deadline of a part; a row that fails is a line, not the end."""
    end, left = time.monotonic() + seconds, []
    name = "the start"
    try:
        for name, measure in rows:
            if time.monotonic() > end:
                left.append(name)
                continue
            gc.collect()  # a trainer and its matcher refer to each other: memory is freed here
            say(part, name, **tried(measure))
    except Exception as error:  # what the rows share could not be made
        say(part, f"after {name}", error=f"{type(error).__name__}: {error}")
    if left:
        say(part, "left out after the deadline", rows=left)


def tried(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Measure a row, or say what went wrong."""
    try:
        return measure()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


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
        # Written, because all pages of an unwritten tensor are one, which the cache holds.
        host = torch.ones(n, n, pin_memory=pinned and device.type == "cuda")
        there = torch.empty(n, n, device=device)
        seconds = measured(lambda: there.copy_(host, non_blocking=pinned), device, 5)
        return {"gbytes_per_second": 4 * n * n / seconds / 1e9}

    yield "product bf16", lambda: product(torch.bfloat16)
    yield "product fp32", lambda: product(torch.float32)
    yield "product tf32", lambda: product(torch.float32, True)
    yield "copy from pinned memory", lambda: copy(True)
    yield "copy from pageable memory", lambda: copy(False)


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


PARTS: dict[str, tuple[Callable[[torch.device, dict[str, Any]], Iterator[Row]], float]] = {
    "ceilings": (ceilings, 20),
    "correctness": (correctness, 60),
    "training": (training, 130),
    "scoring": (scoring, 60),
    "from_host": (from_host, 20),
    "fits": (fits, 60),
    "compiling": (compiling, 60),
    "counting": (counting, 30),
}  # seconds of each part


if __name__ == "__main__":
    main()
