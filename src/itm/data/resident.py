"""Keep the features of a whole split on the device: batches hold row numbers and look them up.

Loaders then neither read nor send features. COCO's training features take 33 GB as float32 and
17 GB in half precision. Under bf16-mixed, bfloat16 changes nothing where the first step of an
encoder is a product, which rounds its input to bfloat16 anyway. VSE++ and the two-branch embedding
network average the regions first; that changes their vectors by no more than the product does.
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from itm.batch import Images, Pairs
from itm.data.layout import Split
from itm.data.padding import make_images
from itm.utils.checks import check_choice

BLOCK = 256  # images read at once
Batch = TypeVar("Batch", Pairs, Images)


def row_numbers(split: Split, rows: list[int], kept: list[np.ndarray] | None = None) -> Images:
    """Make `Images` that hold row numbers instead of regions, (n, 0, F).

    Args:
        split: split of the images.
        rows: n images.
        kept: for each image the mask (R,) of the regions to take; the regions are then replaced by
            their numbers, (n, most, 1).
    """
    if kept is not None:
        return make_images([np.flatnonzero(x)[:, None].astype(np.float32) for x in kept], rows)
    return Images(
        torch.empty(len(rows), 0, split.width),
        torch.ones(len(rows), split.regions, dtype=torch.bool),
        torch.tensor(rows, dtype=torch.long),
    )


def look_up(batch: Batch, table: Tensor) -> Batch:
    """Add the regions of its images to a batch, in the type of its tensors.

    Args:
        batch: a batch on the table's device, with images of `row_numbers`.
        table: (N, R, F) features of the split.
    """
    if isinstance(batch, Pairs):
        return batch._replace(images=look_up(batch.images, table))
    dtype = batch.regions.dtype  # the precision in which the trainer computes
    if batch.regions.shape[1]:  # numbers of the regions to take
        regions = table[batch.index[:, None], batch.regions[..., 0].long()].to(dtype)
        return batch._replace(regions=regions * batch.mask[..., None])
    return batch._replace(regions=table.index_select(0, batch.index).to(dtype))


def read_table(split: Split, device: torch.device, dtype: bool | str) -> Tensor:
    """Read the features (N, R, F) of all distinct images of a split.

    Args:
        split: split of the images.
        device: device to copy them to, block by block.
        dtype: "float16", "bfloat16" or "float32"; True = float16 if the file has it, else float32,
            as batches have.

    Raises:
        ValueError: the type is unknown.
    """
    if dtype is True:
        dtype = "float16" if split.features.dtype == np.float16 else "float32"
    check_choice("data.resident", dtype, ("float16", "bfloat16", "float32"))
    shape = (split.num_images, split.regions, split.width)
    table = torch.empty(shape, dtype=getattr(torch, str(dtype)), device=device)
    for start in range(0, len(table), BLOCK):
        block = split.view()[start : start + BLOCK]
        table[start : start + BLOCK] = torch.from_numpy(block).to(device)
    return table
