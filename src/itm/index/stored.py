"""Reading a saved index for a split and a matcher that it must belong to."""

from __future__ import annotations

from pathlib import Path

from itm.checkpoints.folder import load
from itm.data.layout import Split, name_of
from itm.index.index import Index
from itm.matcher.matcher import Matcher
from itm.utils.devices import find_device


def read_index_of(
    split: Split,
    folder: str | Path,
    checkpoint: str | None = None,
    *,
    model_class: str | None = None,
    device: str = "auto",
) -> Index:
    """Read the index in a folder and check that it is of this split and this matcher.

    Args:
        split: to search.
        folder: that `Index.save` wrote.
        checkpoint: of the matcher to search with; None = the index's own.
        model_class: "module.Class" of a matcher of your own.
        device: to score on; "auto" = a GPU where there is one.

    Raises:
        ValueError: the index is of another split or of another matcher.
    """
    index = Index.load(folder, device=find_device(device), model_class=model_class)
    if checkpoint is not None:
        matcher = load(checkpoint, model_class=model_class)
        if not _same_tensors(matcher, index.matcher):
            raise ValueError(
                f"the index {folder} was made by another matcher than {checkpoint}; choose "
                "another index= folder, or leave out checkpoint= to search with its own"
            )
    names = [name_of(split, row) for row in range(split.num_images)]
    if index.ids != names or index.captions != split.captions:
        raise ValueError(
            f"the index {folder} is not of split {split.name} in {split.folder} "
            f"({len(index.ids)} and {split.num_images} images); choose another index= folder"
        )
    return index


def _same_tensors(a: Matcher, b: Matcher) -> bool:
    """Whether two matchers have the same tensors, wherever they are."""
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(
        mine[k].shape == other[k].shape and bool((mine[k] == other[k].cpu()).all()) for k in mine
    )
