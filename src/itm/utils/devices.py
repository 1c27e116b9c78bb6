"""Where tensors live."""

from __future__ import annotations

import torch


def find_device(name: str) -> str:
    """Replace "auto" by the GPU where there is one, else by the CPU."""
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
