"""Choose devices, precision, and how much to compute at once."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from itm.utils.checks import check_choice

PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def precision_context(
    device: torch.device, precision: str | None = None
) -> AbstractContextManager[object]:
    """Return a context in which products are computed in a precision; norms and sums in float32.

    Args:
        device: where the products are computed.
        precision: "32-true", "bf16-mixed" or "16-mixed", as Lightning names them; None = that of
            the surrounding autocast, or float32 outside of one.

    Raises:
        ValueError: the precision is unknown.
    """
    if precision is None:
        return nullcontext()
    check_choice("precision", precision, PRECISIONS)
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def find_device(name: str) -> str:
    """Replace "auto" by "cuda" if there is a GPU, else by "cpu".

    Raises:
        ValueError: torch does not know the device, or sees no such GPU.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name} is unknown: use cpu, cuda, cuda:1 or auto") from error
    seen = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= seen:
        gpus = "no GPU" if seen == 0 else f"{seen} GPUs, cuda:0 to cuda:{seen - 1}"
        raise ValueError(f"device={name}, but torch sees {gpus}: use device=cpu or device=auto")
    return name


def free_memory(device: torch.device) -> int | None:
    """Return the bytes of a GPU that tensors can still take, or None for other devices.

    The driver counts the memory as used that torch keeps of tensors that are gone.
    """
    if device.type != "cuda":
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + kept)


def block_bytes(device: torch.device) -> int:
    """Return the bytes of one block of scores: 1 GiB, on a GPU a quarter of its memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory // 4)
    return 1 << 30


def block_values(device: torch.device, cache: int) -> int:
    """Return how many values of an intermediate result to compute at once.

    A CPU is fastest on blocks that fit its cache. On a GPU every kernel costs a launch, so blocks
    are as large as its memory allows: a 64th of it in float32 values is a 16th of its bytes. From
    2^31 values on, a kernel would index with 64 bits.

    Args:
        device: where the values are computed.
        cache: the number of values for a CPU.
    """
    if device.type == "cpu":
        return cache
    if device.type == "cuda":
        return min(1 << 30, int(torch.cuda.get_device_properties(device).total_memory // 64))
    return 1 << 28
