"""Where tensors live."""

from __future__ import annotations

import torch


def find_device(name: str) -> str:
    """Replace "auto" by the GPU where there is one, else by the CPU."""
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a GPU, or None for a device that does not tell."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
