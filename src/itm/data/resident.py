"""Features of a whole split in the device's memory: a batch brings row numbers, and is looked up.

COCO's training features take 33 GB as float32 and 17 GB in half precision; then no loader reads
features, and none travel. Under bf16-mixed, bfloat16 changes no number that matters: an encoder's
first product rounds its input to it anyway.
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from itm.batch import Images, Pairs
from itm.data.layout import Split
from itm.data.padding import make_images

BLOCK = 256  # images read at once
Batch = TypeVar("Batch", Pairs, Images)


def row_numbers(split: Split, rows: list[int], kept: list[np.ndarray] | None = None) -> Images:
    """Images whose regions are left out, (n, 0, F).

    Args:
        split: the files.
        rows: n images.
        kept: for each image the mask (R,) of the regions to take; their numbers are then sent in
            place of the regions, (n, most, 1).
    """
    if kept is not None:
        return make_images([np.flatnonzero(x)[:, None] for x in kept], rows)
    return Images(
        torch.empty(len(rows), 0, split.width),
        torch.ones(len(rows), split.regions, dtype=torch.bool),
        torch.tensor(rows, dtype=torch.long),
    )


def look_up(batch: Batch, table: Tensor) -> Batch:
    """The batch with its images' regions, float32.

    Args:
        batch: with images as `row_numbers` makes them, on the table's device.
        table: (N, R, F) features of the split.
    """
    if isinstance(batch, Pairs):
        return batch._replace(images=look_up(batch.images, table))
    if batch.regions.shape[1]:  # numbers of the regions to take
        regions = table[batch.index[:, None], batch.regions[..., 0].long()].float()
        return batch._replace(regions=regions * batch.mask[..., None])
    return batch._replace(regions=table.index_select(0, batch.index).float())


def read_table(split: Split, device: torch.device, dtype: bool | str) -> Tensor:
    """Features (N, R, F) of all distinct images of a split.

    Args:
        split: the files.
        device: where they go, block by block.
        dtype: "float16", "bfloat16" or "float32"; True = that of the file.

    Raises:
        ValueError: another type.
    """
    names = ("float16", "bfloat16", "float32")
    name = str(split.features.dtype) if dtype is True else dtype
    if name not in names:
        raise ValueError(f"data.resident={dtype} must be true, false or one of {', '.join(names)}")
    shape = (split.num_images, split.regions, split.width)
    table = torch.empty(shape, dtype=getattr(torch, str(name)), device=device)
    for start in range(0, len(table), BLOCK):
        block = split.view()[start : start + BLOCK]
        table[start : start + BLOCK] = torch.from_numpy(block).to(device)
    return table
