"""Record beside the results how they were made: versions, hardware, split, ranks of the queries."""

from __future__ import annotations

import json
import platform
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itm.data.fingerprint import split_digest
from itm.utils.files import replacing, write_text
from itm.utils.manifest import KEY, checksums, sealed

if TYPE_CHECKING:
    import torch
    from torch import nn

    from itm.data.layout import Split

FAILURE = "failure.txt"  # in the folder of a job that failed: the error in one line
# Files of a training, or of a record, that its results.json vouches for.
BESIDE = ("csv/metrics.csv", "ranks.npz", "settings.yaml")


def environment(device: torch.device | None) -> dict[str, Any]:
    """Return versions, hardware and the time; recorded with every result.

    The time distinguishes attempts at one run: results.json belongs to the attempt whose run.json
    has the same "started".

    Args:
        device: where the results are computed; None = on the CPU.
    """
    import torch  # late, so that commands that fail early do not wait

    packages = ("itm-lightning", "torch", "pytorch-lightning", "numpy")
    return {
        "started": datetime.now(timezone.utc).isoformat(),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "device": torch.cuda.get_device_name(device)
        if device is not None and device.type == "cuda"
        else f"{device.type if device else 'cpu'} ({torch.get_num_threads()} threads)",
    }


def split_facts(split: Split, protocol: str) -> dict[str, Any]:
    """Return what results were measured on; only results with equal facts can be compared.

    "content" identifies captions and features, whatever the folder is called. "sentences"
    says what these are if they are not captions, such as "phrases".
    """
    return {
        "split": split.name,
        "root": str(split.folder.resolve()),
        "protocol": protocol,
        "images": split.num_images,
        "content": split_digest(split),
        **({} if split.noun == "caption" else {"sentences": f"{split.noun}s"}),
    }


def describe_size(matcher: nn.Module) -> str:
    """Count the parameters in words, such as "11.35 M parameters" or "4.2 k parameters"."""
    number = sum(p.numel() for p in matcher.parameters())
    if number >= 999_950:
        return f"{number / 1e6:.2f} M parameters"
    return f"{number / 1e3:.1f} k parameters" if number >= 1000 else f"{number} parameters"


def parameters_m(matcher: nn.Module) -> float:
    """Count the parameters, in millions."""
    return sum(p.numel() for p in matcher.parameters()) / 1e6


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record such as run.json, results.json or report.json, with a checksum."""
    write_text(path, json.dumps(sealed(record), indent=1))


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write results.json of a training, with the checksums of its curves and ranks."""
    write_json(folder / "results.json", {**results, KEY: checksums(folder, BESIDE)})


def write_ranks(path: Path, i2t: np.ndarray, t2i: np.ndarray, image: np.ndarray) -> None:
    """Write the 0-based rank of every query, for curves and for tests of differences.

    Args:
        path: the .npz file; 60 KB for COCO's 30,000 queries.
        i2t: (N,) ranks of the image queries.
        t2i: (M,) ranks of the caption queries.
        image: (M,) row of each caption's image.
    """
    small = [x.astype(np.int32) for x in (i2t, t2i, image)]
    with replacing(path) as file:
        np.savez_compressed(file, i2t=small[0], t2i=small[1], image=small[2])
