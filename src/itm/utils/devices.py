"""Where tensors live."""

from __future__ import annotations

import torch


def find_device(name: str) -> str:
    """Replace "auto" by the GPU where there is one, else by the CPU.

    Raises:
        ValueError: a GPU is asked for, but torch sees none.
    """
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={name}, but torch sees no GPU: use device=cpu or device=auto")
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
