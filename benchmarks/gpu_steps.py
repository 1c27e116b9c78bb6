"""Measure training steps on a GPU: time, memory, waits and kernels."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu_clock import autocast, kernels, measured, memory, waits
from benchmarks.gpu_inputs import Row, batch_of, matchers

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def step_of(
    name: str, device: torch.device, size: dict[str, Any], dtype: torch.dtype, compiled: bool
) -> Callable[[], None]:
    """Make the training step of a matcher: forward, loss, backward, clipping, update."""
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

    return step


def steps(
    name: str, device: torch.device, size: dict[str, Any], dtype: torch.dtype, compiled: bool
) -> dict[str, Any]:
    """Measure the training steps of a matcher."""
    step = step_of(name, device, size, dtype, compiled)
    seconds = measured(step, device, 10)
    found = {"ms": 1e3 * seconds, "pairs_per_second": size["batch"] / seconds} | memory(device)
    try:
        found |= waits(step, device)
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


def compiling(device: torch.device, size: dict[str, Any]) -> Iterator[Row]:
    """Measure compiled training steps; late, because compiling takes longest."""
    for name in ("SCAN t2i", "VSRN") if device.type == "cuda" else ():
        yield f"{name} bf16", lambda name=name: steps(name, device, size, torch.bfloat16, True)


def counting(device: torch.device, size: dict[str, Any]) -> Iterator[Row]:
    """Count the kernels of training steps.

    The last part: a profiler slows the launches of its process for good
    (https://github.com/pytorch/pytorch/pull/146604).
    """

    def count(name: str) -> dict[str, Any]:
        return kernels(step_of(name, device, size, torch.bfloat16, False))

    for name in matchers(size) if device.type == "cuda" else ():
        yield f"{name} bf16", lambda name=name: count(name)
