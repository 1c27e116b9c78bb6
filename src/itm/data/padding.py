"""Pad arrays and token ids to `Images` and `Captions`, and check them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itm.batch import Captions, Images, Pairs
from itm.utils.rows import to_array

Arrays = np.ndarray | Sequence[np.ndarray]


def make_images(features: Arrays, index: Sequence[int], as_stored: bool = False) -> Images:
    """Make `Images` from (I, R, F), (I, F) or a list of (R_i, F) arrays; pad the shorter ones.

    Args:
        features: features of I images.
        index: (I,) rows of the images.
        as_stored: leave float16 as it is, for `widen` to convert on a device.

    Raises:
        ValueError: values that are not floats, another number of dimensions, no region in any
            image, or arrays of different widths.
    """

    def kept(x: Any) -> np.ndarray:  # float16 storage and memory maps are widened here
        found = to_array(x)
        if found.dtype == object and found.ndim == 1:
            raise ValueError(
                f"features must be floats, got an array of {len(found)} objects: if each is an "
                "image, pass list(x)"
            )
        if found.dtype.kind != "f":
            raise ValueError(
                f"features must be floats, got {found.dtype} of shape {found.shape}; write them as "
                "float32, x.astype(np.float32), if these are features"
            )
        return (
            found
            if as_stored and found.dtype == np.float16
            else found.astype(np.float32, copy=False)
        )

    if isinstance(features, np.ndarray | Tensor):
        array = kept(features)
        array = array[:, None] if array.ndim == 2 else array
        if array.ndim != 3:
            raise ValueError(f"features must be (I, R, F) or (I, F), got {features.shape}")
        usable = array.flags.writeable and min(array.strides) >= 0  # by torch
        regions = torch.from_numpy(array if usable else array.copy())
        mask = torch.ones(regions.shape[:2], dtype=torch.bool)
    else:
        rows = [np.atleast_2d(kept(x)) for x in features]
        if wrong := [x.shape for x in rows if x.ndim != 2]:
            raise ValueError(f"each image of a list must be (R, F), got {wrong[0]}")
        if len({x.shape[1] for x in rows}) != 1:
            raise ValueError(
                f"images differ in feature width: {sorted({x.shape[1] for x in rows})}"
            )
        longest = max(len(x) for x in rows)
        widest = torch.from_numpy(np.empty(0, np.result_type(*rows))).dtype
        regions = torch.zeros(len(rows), longest, rows[0].shape[1], dtype=widest)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, x in enumerate(rows):
            regions[i, : len(x)] = torch.from_numpy(np.array(x))
            mask[i, : len(x)] = True
    if len(mask) and not mask.shape[1]:
        raise ValueError(f"the features {tuple(regions.shape)} hold no region of any image")
    return Images(regions, mask, torch.as_tensor(index, dtype=torch.long))


def widen(batch: Any) -> Any:
    """Convert float16 regions of a batch to float32; half as many bytes were sent to its device.

    Other types stay: with precision=64-true, Lightning has made float64 of them.
    """
    if isinstance(batch, Pairs):
        return batch._replace(images=widen(batch.images))
    if isinstance(batch, Images) and batch.regions.dtype == torch.float16:
        return batch._replace(regions=batch.regions.float())
    return batch


def make_captions(
    tokens: Sequence[Sequence[int]],
    index: Sequence[int],
    image: Sequence[int],
    labels: Tensor | None = None,
    concepts: Tensor | None = None,
    vectors: Tensor | None = None,
) -> Captions:
    """Make `Captions` from lists of ids; pad them with 0 to the longest."""
    lengths = tuple(len(ids) for ids in tokens)
    padded = torch.zeros(len(tokens), max(lengths, default=0), dtype=torch.long)
    for row, ids in zip(padded, tokens, strict=True):
        row[: len(ids)] = torch.as_tensor(ids, dtype=torch.long)
    return Captions(
        padded,
        lengths,
        torch.as_tensor(index, dtype=torch.long),
        torch.as_tensor(image, dtype=torch.long),
        labels,
        concepts,
        vectors,
    )


def optional_tensor(values: Any) -> Tensor | None:
    """Return a copy of values as float32, or None for None; they may be read-only."""
    return None if values is None else torch.from_numpy(to_array(values).astype(np.float32))


def check_regions(images: Images) -> None:
    """Raise ValueError unless all features are finite: one NaN would spoil a whole batch."""
    if not images.regions.isfinite().all():
        bad = int(images.index[~images.regions.isfinite().all(-1).all(-1)][0])
        raise ValueError(
            f"the features of image {bad} hold NaN or infinite values; extract them again or drop "
            "the image"
        )


def take_captions(captions: Captions, rows: np.ndarray) -> Captions:
    """Select captions, padded to the longest of them."""
    lengths = tuple(captions.lengths[row] for row in rows)
    picked = (None if x is None else x[rows] for x in (captions.index, captions.image))
    index, image = (x for x in picked if x is not None)
    extra = (None if x is None else x[rows] for x in captions[4:])
    return Captions(captions.tokens[rows][:, : max(lengths)], lengths, index, image, *extra)
