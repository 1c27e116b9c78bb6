"""Check the test split and the disk before training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itm.data.layout import Split


def check_protocol(split: Split) -> None:
    """Check that a split has the size that its protocol is defined on.

    Raises:
        ValueError: it has another size.
    """
    from itm.metrics.protocols import check_size

    try:
        check_size(split.protocol, split.num_images, len(split.captions))
    except ValueError as error:
        raise ValueError(
            f"split {split.name} of {split.folder}: {error} (data.protocol=full, data.test=SPLIT, "
            "or test=false)"
        ) from error


def check_disk(folder: Path, matcher: Any) -> None:
    """Check that the disk has room for the checkpoints of a new run.

    best.ckpt, last.ckpt and the file being written hold the weights and, at most, the two
    moments of Adam. A resumed run replaces existing files.

    Raises:
        ValueError: less space is free.
    """
    if (folder / "checkpoints" / "last.ckpt").is_file():
        return
    size = sum(
        p.numel() * p.element_size() * (3 if p.requires_grad else 1) for p in matcher.parameters()
    )
    free = shutil.disk_usage(folder).free
    if free < 3 * size:
        raise ValueError(
            f"{folder}: {free / 2**20:,.1f} MiB are free on this disk, but three checkpoints of "
            f"{size / 2**20:,.1f} MiB need {3 * size / 2**20:,.1f} MiB: make room, or set "
            "hydra.run.dir to another disk"
        )
