"""Write the arrays of a CIDEr-D index to an .npz file, and check what such a file holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from itm.relevance.ngrams import SplitWords, whitespace_tokens
from itm.text.made_from import hash_captions
from itm.utils.archive import read_npz
from itm.utils.files import replacing

KINDS = {
    "hypotheses": "f",
    "references": "f",
    "indices": "i",
    "indptr": "i",
    "width": "i",
    "length": "i",
    "members": "i",
    "count": "i",
}


def source_of(
    captions: Sequence[str], image: np.ndarray | None, tokens: SplitWords, other_df: bool = False
) -> str:
    """Identify captions, their images and words; `other_df`: with other document frequencies.

    Words are known by the name of the function that makes them; without a name, by themselves.
    """
    found = hash_captions(captions, image)
    if tokens is not whitespace_tokens:
        name = getattr(tokens, "__name__", "<lambda>")
        if name == "<lambda>":  # or a partial, or an object
            name = hash_captions("\x1f".join(tokens(caption)) for caption in captions)
        found += f", {name}"
    return f"{found}, other document frequencies" if other_df else found


def write_arrays(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays by name."""
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read the arrays of a CIDEr-D index; sparse products trust them, so all are checked.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or holds something else.
    """
    found = read_npz(path)
    missing = [name for name in KINDS if name not in found]
    if missing:
        raise ValueError(f"{path} is not a CIDEr-D index: it has no {', '.join(missing)}")
    for name, kind in KINDS.items():
        array, dimensions = found[name], 0 if name == "width" else 1
        if array.ndim != dimensions or array.dtype.kind != kind:
            raise ValueError(
                f"{path}: {name} is {array.dtype} {array.shape}, expected {dimensions} dimensions "
                f"of kind {kind!r}"
            )
    for problem, wrong in _checks(found).items():
        if wrong():
            raise ValueError(f"{path} is damaged: {problem}")
    return found


def _checks(a: dict[str, np.ndarray]) -> dict[str, Callable[[], bool]]:
    """Map each possible defect to its check, shapes first."""
    captions, images, entries = len(a["length"]), len(a["count"]), len(a["indices"])
    pointers = a["indptr"]
    return {
        "indptr does not have an entry for each caption": lambda: len(pointers) != captions + 1,
        "indptr does not rise from 0 to the number of entries": lambda: bool(
            pointers[0] != 0 or pointers[-1] != entries or (np.diff(pointers) < 0).any()
        ),
        "values and indices differ in number": lambda: (
            not len(a["hypotheses"]) == len(a["references"]) == entries
        ),
        "an index is out of range": lambda: _outside(a["indices"], int(a["width"])),
        "a member is not a caption": lambda: _outside(a["members"], captions),
        "a count or length is negative or too large": lambda: (
            _outside(a["count"], captions + 1) or _outside(a["length"], 2**20)
        ),
        "counts and members differ": lambda: int(a["count"].sum()) != len(a["members"]),
        "a value is NaN, infinite or negative": lambda: (
            not all(
                np.isfinite(a[name]).all() and (a[name] >= 0).all()
                for name in ("hypotheses", "references")
            )
        ),
        "it is empty": lambda: not (captions and images),
    }


def _outside(values: np.ndarray, size: int) -> bool:
    """Tell whether a value is not in 0..size - 1."""
    return bool(len(values) and not 0 <= values.min() <= values.max() < size)
