"""Check what a caller gives as rows: images, captions and what belongs to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def check_rows(name: str, rows: Any, expected: str) -> None:
    """Check that rows can be counted and read twice, always in the same order.

    A generator has no length, a set no order; iterating over a dictionary or a table gives the
    names of its columns.

    Args:
        name: of the argument, for the message.
        rows: a list, a tuple, an array, or a type that behaves like one of these.
        expected: what the argument must be, for the message.

    Raises:
        ValueError: the rows are something else.
    """
    is_array = hasattr(rows, "__array__") and getattr(rows, "ndim", 1) > 0
    is_list = isinstance(rows, Sequence) and not isinstance(rows, str | bytes)
    named = hasattr(rows, "_fields") or hasattr(rows, "columns")  # a named tuple, a table
    if named or not (is_array or is_list):
        given = repr(rows[:40]) if isinstance(rows, str | bytes) else f"a {type(rows).__name__}"
        raise ValueError(f"{name} must be {expected}; got {given}")


def to_array(values: Any) -> np.ndarray:
    """Return an array of what may be a tensor: on any device, with a gradient, in bfloat16.

    Raises:
        ValueError: a masked array that hides some of its values.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    if np.ma.is_masked(values):
        raise ValueError(
            f"a masked array {np.shape(values)} hides some of its values: give each image's own "
            "regions as a list of arrays, or fill the values, x.filled(0)"
        )
    return np.asarray(values)
