"""Results of runs as tables, and what is recorded beside them."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from itm.data.layout import Split


def environment() -> dict[str, Any]:
    """Versions and hardware, recorded with every result."""
    import torch

    packages = ("itm-lightning", "torch", "pytorch-lightning", "numpy")
    cuda = torch.cuda.is_available()
    return {
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "device": torch.cuda.get_device_name()
        if cuda
        else f"cpu ({torch.get_num_threads()} threads)",
    }


def split_facts(split: Split, protocol: str) -> dict[str, Any]:
    """What results were measured on; only results with equal facts can be compared."""
    return {
        "split": split.name,
        "root": str(split.folder.resolve()),
        "protocol": protocol,
        "images": split.num_images,
    }


def write_ranks(path: Path, i2t: np.ndarray, t2i: np.ndarray, image: np.ndarray) -> None:
    """Keep the 0-based rank of every query, for curves and for tests of differences.

    Args:
        path: the .npz file; 60 KB for COCO's 30,000 queries.
        i2t: (N,) of images.
        t2i: (M,) of captions.
        image: (M,) image of each caption.
    """
    from itm.utils.files import replacing  # imports torch

    small = [x.astype(np.int32) for x in (i2t, t2i, image)]
    with replacing(path) as file:
        np.savez_compressed(file, i2t=small[0], t2i=small[1], image=small[2])
