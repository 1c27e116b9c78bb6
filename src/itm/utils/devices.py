"""Where tensors live."""

from __future__ import annotations

import torch


def find_device(name: str) -> str:
    """`auto` is the GPU where there is one."""
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
