"""Measure time, memory, kernels and waits on a GPU; on a CPU only time."""

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch


def autocast(device: torch.device, dtype: torch.dtype):
    """Return the context of Lightning's bf16-mixed, or an empty one."""
    return torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext()


class matmul_precision:  # noqa: N801  # a context manager
    """Set the precision of float32 products: "highest", or "high" for TF32."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        self.before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.name)

    def __exit__(self, *error: object) -> None:
        torch.set_float32_matmul_precision(self.before)


def measured(run: Callable[[], Any], device: torch.device, times: int) -> float:
    """Return the mean seconds of `times` runs (of one on a CPU), after one run to warm up."""
    run()
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    torch.cuda.reset_peak_memory_stats()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / times


def memory(device: torch.device) -> dict[str, Any]:
    """Return the peak memory since the last measurement began."""
    if device.type != "cuda":
        return {}
    return {"peak_gib": torch.cuda.max_memory_allocated() / 2**30}


def kernels(step: Callable[[], Any]) -> dict[str, Any]:
    """Count the kernels of a step on a GPU, and the milliseconds in which they run.

    The profiler slows the launches, but not the kernels.
    """
    from torch.profiler import ProfilerActivity, profile, schedule

    step()  # makes the state of the optimiser
    found: list[Any] = []
    with profile(
        activities=[ProfilerActivity.CUDA],
        schedule=schedule(wait=0, warmup=1, active=1, repeat=1),  # the first may be lost
        on_trace_ready=lambda profiler: found.extend(profiler.events()),
    ) as profiler:
        for _ in range(2):
            step()
            torch.cuda.synchronize()
            profiler.step()
    found = [event for event in found if event.device_type.name == "CUDA"]
    if not found:
        raise RuntimeError("the profiler saw no kernel: it may lack the right to read counters")
    return {"kernels": len(found), "kernel_ms": sum(event.device_time for event in found) / 1e3}


def waits(step: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Count how often a step waits for the device."""
    if device.type != "cuda":
        return {}
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # The mode itself warns once in a process, of "synchronizing operations" that it does not see.
    return {"waits": sum("called a synchronizing" in str(x.message) for x in found)}
