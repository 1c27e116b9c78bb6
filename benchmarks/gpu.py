"""Measure on a GPU within eight minutes: JSON lines, correctness first, a deadline for each part.

    python -m benchmarks.gpu                          # everything, at the papers' sizes
    python -m benchmarks.gpu only=training,scoring    # some parts
    python -m benchmarks.gpu device=cpu size=tiny     # check that everything runs

Each line is a JSON object with "part" and "name"; the first names the card. A part starts no new
row after its deadline and says which rows it left out, so a time limit loses the end, not the
result. Times of kernels are taken by events on the device, "busy" is the share of a step in which
a kernel runs, and "waits" counts how often a step waits for the device.
"""

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
from benchmarks.measure import captions_of, images_of, lengths_of
from itm.batch import Encoded, Pairs
from itm.data import RegionDataModule
from itm.losses import Triplet
from itm.matcher.blocks import similarity_matrix
from itm.matcher.matcher import Matcher
from itm.models import CASC, CVSE, SCAN, SGRAF, VSRN
from itm.text import SPECIALS, Vocabulary

VOCAB = 10_000
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"images": 6, "batch": 4, "features": 8, "width": 16, "product": 64, "steps": 2},
    "paper": {"images": 1000, "batch": 128, "features": 2048, "width": 1024, "product": 8192,
              "steps": 100},
}  # fmt: skip
REGIONS = 36
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
Row = tuple[str, Callable[[], dict[str, Any]]]  # a name, and what measures it


def main() -> None:
    options = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    known = {"device": "cuda", "size": "paper", "only": ",".join(PARTS)}
    if options.keys() - known.keys():
        raise SystemExit(__doc__)
    options = {**known, **options}
    device = torch.device(options["device"])
    say("machine", torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        torch=torch.__version__, size=options["size"])  # fmt: skip
    for part in options["only"].split(","):
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
        try:
            say(part, name, **measure())
        except Exception as error:
            say(part, name, error=f"{type(error).__name__}: {error}")
    if left:
        say(part, "left out after the deadline", rows=left)


# What is measured ---------------------------------------------------------------------------------


def matchers(size: dict[str, Any]) -> dict[str, Callable[[], Matcher]]:
    width = size["width"]
    sizes = {"vocab_size": VOCAB, "img_dim": size["features"], "embed_dim": width}
    sizes |= {"loss": Triplet(negatives="all")}  # smooth, so that precisions can be compared
    return {
        "SCAN t2i": lambda: SCAN(**sizes),
        "SCAN i2t": lambda: SCAN(**sizes, direction="i2t", aggregation="LogSumExp"),
        "CASC": lambda: CASC(**sizes),
        "SGR": lambda: SGRAF(**sizes, dropout=0.0),
        "SAF": lambda: SGRAF(**sizes, module="SAF", dropout=0.0),
        "VSRN": lambda: VSRN(**{**sizes, "embed_dim": 2 * width}, caption_dropout=0.0),
        "CVSE": lambda: CVSE(**sizes, dropout=0.0),
    }


def placed(matcher: Matcher, device: torch.device) -> Matcher:
    """Move a matcher to the device; tests replace this."""
    return matcher.to(device)


def batch_of(name: str, matcher: Matcher, count: int, size: dict[str, Any]) -> Pairs:
    kinds = {"CASC": matcher.hparams.get("num_labels"), "CVSE": 300}
    captions = captions_of(count, VOCAB, kinds.get(name) or 0)
    return Pairs(images_of(count, REGIONS, size["features"]), captions)


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


def correctness(device: torch.device, size: dict[str, Any]) -> Iterator[Row]:
    """Compare one batch's loss and gradients: float32 with the CPU, bfloat16 with float32."""

    def gradients(matcher: Matcher, pairs: Pairs, dtype: torch.dtype) -> list[torch.Tensor]:
        matcher.zero_grad()
        with autocast(pairs.images.regions.device, dtype):
            total = matcher.losses(pairs)["total"]
        total.backward()
        found = [total, *(p.grad for p in matcher.parameters() if p.grad is not None)]
        return [x.detach().float().cpu() for x in found]

    def gap(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
        """Return the distance of all gradients together, relative to their length."""
        x, y = (torch.cat([part.flatten() for part in side]) for side in (a, b))
        return float((x - y).norm() / y.norm())

    def compare(name: str) -> dict[str, Any]:
        torch.manual_seed(0)
        matcher = matchers(size)[name]().train()
        pairs = batch_of(name, matcher, min(16, size["batch"]), size)
        host = gradients(matcher, pairs, torch.float32)
        there = placed(matcher, device)
        sent = there.transfer_batch_to_device(pairs, device, 0)
        single, half = (gradients(there, sent, dtype) for dtype in (torch.float32, torch.bfloat16))
        return {"fp32_to_cpu": gap(single, host), "bf16_to_fp32": gap(half, single)}

    for name in matchers(size):
        yield name, lambda name=name: compare(name)


def training(device: torch.device, size: dict[str, Any]) -> Iterator[Row]:
    """Measure training steps: forward, loss, backward, clipping, update."""

    def steps(name: str, dtype: torch.dtype, compiled: bool = False) -> dict[str, Any]:
        matcher = placed(matchers(size)[name]().train(), device)
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
        found = {"ms": 1e3 * seconds, "pairs_per_second": size["batch"] / seconds}
        return found | memory(device) | kernels(step, device) | waits(step, device)

    for precision, dtype in PRECISIONS.items():
        for name in matchers(size):
            yield f"{name} {precision}", lambda name=name, dtype=dtype: steps(name, dtype)
    if device.type == "cuda":  # last: compiling takes longest
        for name in ("SCAN t2i", "VSRN"):
            yield f"{name} bf16 compiled", lambda name=name: steps(name, torch.bfloat16, True)


def scoring(device: torch.device, size: dict[str, Any]) -> Iterator[Row]:
    """Score images x 5 captions from encodings, and beside it a loop over captions."""
    images = size["images"]
    lengths = torch.tensor(sorted(lengths_of(5 * images)))
    sides = random_sides(images, lengths, size["width"], device)

    def matrix(name: str, dtype: torch.dtype, tf32: bool, budget: int) -> dict[str, Any]:
        matcher = placed(matchers(size)[name]().eval(), device)
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
        first = sides[1][0][0]
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

    for name in ("SCAN t2i", "SCAN i2t", "CASC", "SGR", "SAF"):
        for title, dtype, tf32 in (("bf16", torch.bfloat16, False), ("tf32", torch.float32, True),
                                   ("fp32", torch.float32, False)):  # fmt: skip
            for gib in (16, 1):
                yield (
                    f"{name} {title} {gib} GiB",
                    lambda n=name, d=dtype, t=tf32, g=gib: matrix(n, d, t, g << 30),
                )
    yield "SCAN t2i fp32, a plain loop over captions", plain


def from_host(device: torch.device, size: dict[str, Any]) -> Iterator[Row]:
    """Measure `Matcher.score` from arrays and sentences."""

    def score(name: str) -> dict[str, Any]:
        matcher = placed(matchers(size)[name]().eval(), device)
        matcher.vocab = Vocabulary([*SPECIALS, *(f"w{i}" for i in range(VOCAB - len(SPECIALS)))])
        rng = np.random.default_rng(0)
        shape = (size["images"], REGIONS, size["features"])
        features = rng.random(shape, np.float32).astype(np.float16)
        texts = [
            " ".join(f"w{w}" for w in rng.integers(0, 1000, 11)) for _ in range(5 * size["images"])
        ]
        return {"seconds": measured(lambda: matcher.score(features, texts), device, 1)}

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
            trainer = pl.Trainer(
                accelerator="gpu" if device.type == "cuda" else "cpu", devices=1, logger=False,
                precision="bf16-mixed" if device.type == "cuda" else "32-true",
                max_steps=size["steps"], limit_val_batches=0, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False,
            )  # fmt: skip
            start = time.monotonic()
            trainer.fit(matcher, data)
            seconds = time.monotonic() - start
        return {"seconds": seconds, "steps_per_second": size["steps"] / seconds}

    yield "workers=0", lambda: fit()
    if device.type == "cuda":
        yield "workers=8, pinned", lambda: fit(workers=8, pin_memory=True)
        yield "resident in bfloat16", lambda: fit(resident="bfloat16")


PARTS: dict[str, tuple[Callable[[torch.device, dict[str, Any]], Iterator[Row]], float]] = {
    "ceilings": (ceilings, 20),
    "correctness": (correctness, 60),
    "training": (training, 150),
    "scoring": (scoring, 60),
    "from_host": (from_host, 20),
    "fits": (fits, 60),
}  # seconds of each part


def random_sides(images: int, lengths: torch.Tensor, width: int, device: torch.device):
    """Make chunks of encodings as evaluation keeps them: unit vectors in float32."""

    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, device=device), dim=-1)

    side, texts = [], []
    for rows in torch.arange(images).split(256):
        real = torch.ones(len(rows), REGIONS, dtype=torch.bool, device=device)
        side.append((Encoded(unit(len(rows), width), unit(len(rows), REGIONS, width), real), rows))
    for rows in torch.arange(len(lengths)).split(256):
        own = lengths[rows]
        mask = (torch.arange(int(own.max())) < own[:, None]).to(device)
        words = unit(*mask.shape, width) * mask[..., None]
        texts.append((Encoded(unit(len(rows), width), words, mask, {"lengths": own}), rows))
    return side, texts


if __name__ == "__main__":
    main()
