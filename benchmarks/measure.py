"""Measure a variant of a computation: processor seconds, memory, and the numbers that it returns.

Each run is a separate process (a fork, so that it starts with the same inputs) on one thread.
Seconds are processor time, on which other work on the machine has little influence; the variants
take turns for several rounds, and the best round counts. Memory is the growth of the resident size
at its peak.
"""

import ctypes
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from itm.batch import Captions, Images, Pairs
from itm.layers.text import GRUText

FORK = multiprocessing.get_context("fork")
LIBC = ctypes.CDLL(None)


class Row(NamedTuple):
    """One row of the table; None leaves a cell empty.

    Attributes:
        task: what was measured.
        seconds: of itm.
        product: seconds of the matrix products alone.
        against: name of the code that itm is compared with.
        plain: seconds of that code.
        bytes: memory of itm.
        plain_bytes: memory of that code.
        difference: largest difference between the numbers of both.
        note: a rate or another remark.
        targets: limits for "speed" (plain / itm, at least), "product" (itm / product, at most),
            "memory" (itm / plain, at most), "seconds" (at most), "bytes" (at most).
    """

    task: str
    seconds: float
    product: float | None = None
    against: str = ""
    plain: float | None = None
    bytes: int | None = None
    plain_bytes: int | None = None
    difference: float | None = None
    note: str = ""
    targets: dict[str, float] = {}

    @property
    def reached(self) -> dict[str, float]:
        """Return the measured values that the targets limit."""
        found: dict[str, float | None] = {"seconds": self.seconds, "bytes": self.bytes}
        if self.plain is not None:
            found["speed"] = self.plain / self.seconds
        if self.product is not None:
            found["product"] = self.seconds / self.product
        if self.bytes is not None and self.plain_bytes:
            found["memory"] = self.bytes / self.plain_bytes
        return {name: value for name, value in found.items() if value is not None}


class Run(NamedTuple):
    """Seconds, bytes and numbers of a variant."""

    seconds: float
    bytes: int | None
    result: list[np.ndarray]


Variant = Callable[[], Any]  # -> tensors, or (nested) lists and tuples of them


def race(variants: dict[str, Variant], rounds: int = 2) -> dict[str, Run]:
    """Run the variants in turn, `rounds` times."""
    best: dict[str, Run] = {}
    for _ in range(rounds):
        for name, variant in variants.items():
            run = alone(variant)
            seconds = min(run.seconds, best.get(name, run).seconds)
            best[name] = run._replace(seconds=seconds)
    return best


def alone(variant: Variant) -> Run:
    """Run a variant in a separate process, twice if it is quick."""
    receive, send = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_child, args=(variant, send))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        raise RuntimeError("a measured variant failed; its error is above") from None
    finally:
        process.join()


def _child(variant: Variant, send: Any) -> None:
    LIBC.malloc_trim(0)  # otherwise memory freed by the parent would be reused and not counted
    before = forget_peak()
    seconds, result = timed(variant)
    numbers = [x.detach().numpy().copy() for x in flat(result)]
    if seconds < 3:  # the first run also allocates memory from the system
        seconds = min(seconds, timed(variant)[0])
    peak = None if before is None else resident("VmHWM") - before
    send.send(Run(seconds, peak, numbers))


def timed(variant: Variant) -> tuple[float, Any]:
    """Run once in this process; return processor seconds and result."""
    start = time.process_time()
    result = variant()
    return time.process_time() - start, result


def flat(values: Any) -> Iterator[torch.Tensor]:
    """Collect the tensors in nested lists, tuples and numbers."""
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from flat(value)
    else:
        yield torch.as_tensor(values)


def resident(field: str) -> int:
    """Read a number of bytes from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def forget_peak() -> int | None:
    """Reset the measured peak (Linux); return the current resident size."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return resident("VmRSS")
    except OSError:
        return None


def compare(task: str, runs: dict[str, Run], tolerance: float, **columns: Any) -> Row:
    """Make one row from the runs "itm", the code under the other name, and optionally "product".

    Raises:
        ValueError: numbers differ by more than `tolerance`, relative to the largest.
    """
    ours = runs["itm"]
    against = next((name for name in runs if name not in ("itm", "product")), "")
    row = Row(task, ours.seconds, bytes=ours.bytes, against=against, **columns)
    if "product" in runs:
        row = row._replace(product=runs["product"].seconds)
    if not against:
        return row
    other = runs[against]
    gaps = [
        np.abs(a - b).max(initial=0) / max(1.0, float(np.abs(b).max(initial=0)))
        for a, b in zip(ours.result, other.result, strict=True)
    ]
    worst = float(np.max(gaps))  # unlike max(), this keeps NaN
    if not worst <= tolerance:
        raise ValueError(f"{task}: itm and {against} differ by {worst:.2g}")
    return row._replace(plain=other.seconds, plain_bytes=other.bytes, difference=worst)


class Products(TorchDispatchMode):
    """Measure the time of matrix products inside the context."""

    OPERATIONS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        start = time.process_time()
        result = function(*args, **(kwargs or {}))
        if function._schema.name in self.OPERATIONS:
            self.seconds += time.process_time() - start
        return result


def products_of(variant: Variant) -> float:
    """Measure the seconds that a variant spends in matrix products."""

    def count() -> torch.Tensor:
        with Products() as products:
            variant()
        return torch.tensor(products.seconds)

    return float(alone(count).result[0])


# Inputs of the papers' sizes ----------------------------------------------------------------------


def lengths_of(captions: int, seed: int = 0) -> list[int]:
    """Draw caption lengths as in the published files: mean 14 tokens, 99th percentile 26."""
    rng = np.random.default_rng(seed)
    return rng.lognormal(np.log(13.4), 0.28, captions).round().clip(5).astype(int).tolist()


def captions_of(captions: int, vocab: int, width: int = 0) -> Captions:
    """Make random captions, longest first; `width` concept labels per caption if it is not 0."""
    generator = torch.Generator().manual_seed(0)
    lengths = sorted(lengths_of(captions), reverse=True)
    tokens = torch.randint(4, vocab, (captions, lengths[0]), generator=generator)
    tokens[torch.arange(lengths[0]) >= torch.tensor(lengths)[:, None]] = 0
    rows = torch.arange(captions)
    labels = (torch.rand(captions, width, generator=generator) < 0.04).float() if width else None
    return Captions(tokens, tuple(lengths), rows, rows, labels, labels)


def images_of(images: int, regions: int = 36, width: int = 2048) -> Images:
    """Make random regions."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(images, regions, width, generator=generator)
    return Images(x, torch.ones(images, regions, dtype=torch.bool), torch.arange(images))


def pairs_of(batch: int, vocab: int, width: int = 0) -> Pairs:
    """Make a training batch."""
    return Pairs(images_of(batch), captions_of(batch, vocab, width))


class PlainGRU(GRUText):
    """Encode words as the original code does: both directions padded, then averaged."""

    def forward(self, captions: Captions) -> tuple[torch.Tensor, torch.Tensor]:
        words = self.dropout(self.embed(captions.tokens))
        lengths = torch.tensor(captions.lengths)
        states = pad_packed_sequence(
            self.rnn(pack_padded_sequence(words, lengths, True, False))[0], batch_first=True
        )[0]
        if self.rnn.bidirectional:
            states = (states[..., : self.rnn.hidden_size] + states[..., self.rnn.hidden_size :]) / 2
        return states, torch.arange(states.shape[1]) < lengths[:, None]


def training_step(
    matcher: Any, pairs: Pairs, loss: Callable[[], torch.Tensor] | None = None
) -> Variant:
    """Run forward, loss, backward, clipping and update; return the loss and gradients.

    Each gradient is sampled at a thousand values, relative to the largest of all.
    """
    optimizer = torch.optim.Adam(matcher.parameters(), lr=2e-4)

    def step() -> list[torch.Tensor]:
        optimizer.zero_grad()
        value = matcher.losses(pairs)["total"] if loss is None else loss()
        value.backward()
        gradients = [p.grad for p in matcher.parameters() if p.grad is not None]
        largest = max(float(g.abs().max()) for g in gradients)
        some = [g.flatten()[:: max(1, g.numel() // 1000)] / largest for g in gradients]
        torch.nn.utils.clip_grad_norm_(matcher.parameters(), 2.0)
        optimizer.step()
        return [value.detach(), *some]

    return step


def race_steps(
    task: str, ours: Variant, against: str, plain: Variant, rounds: int, **columns: Any
) -> Row:
    """Make a row from two training steps and the matrix products inside ours."""
    runs = race({"itm": ours, against: plain}, rounds)
    return compare(task, runs, 1e-3, product=products_of(ours), **columns)
