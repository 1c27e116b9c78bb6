"""Read the index of a split from a folder, or build it and write it there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from itm.checkpoints.folder import load
from itm.data.fingerprint import feature_digest
from itm.data.layout import Split, name_of
from itm.index.encodings import Shelf, shelve_captions, shelve_images
from itm.index.files import check_place
from itm.index.index import Index
from itm.layers.text import as_text_encoder
from itm.matcher.matcher import Matcher
from itm.matcher.state import pack_state, saved_arguments
from itm.utils.checks import check_least
from itm.utils.devices import find_device

ROWS = 64  # images and sentence vectors that are compared
CLOSE = 0.01  # relative difference that precisions and devices cause


def index_of(
    split: Split,
    checkpoint: str | None,
    folder: str | Path | None = None,
    *,
    model_class: str | None = None,
    device: str = "auto",
    kind: str | None = None,
    shortlist: int = 2000,
    batch_size: int = 128,
) -> Index:
    """Read the index of a split from a folder, or build it and write it there.

    Args:
        split: to search.
        checkpoint: of the matcher; None = the matcher of the saved index.
        folder: of the index; None = build it and write nothing.
        model_class: "module.Class" of your own matcher.
        device: to encode and score on; "auto" = the GPU if there is one.
        kind: as in `Index`, if it is built.
        shortlist: as in `Index`.
        batch_size: as in `Index`, if it is built.

    Raises:
        TakenError: the folder holds files with the names of an index, but no index.
        FileNotFoundError: there is neither a saved index nor a checkpoint.
        ValueError: the saved index is of another split, of other features or sentence vectors, of
            another matcher or of another kind, or `shortlist` is below 1.
    """
    check_least({"shortlist": shortlist}, {"shortlist": 1})
    names = [name_of(split, row) for row in range(split.num_images)]
    if folder is not None and Path(folder, "index.json").is_file():
        index = Index.load(folder, device=find_device(device), model_class=model_class)
        if checkpoint is not None:
            matcher = load(checkpoint, model_class=model_class)
            if not _same_matcher(matcher, index.matcher):
                raise ValueError(
                    f"the index {folder} was made by another matcher than {checkpoint} (its "
                    "weights, options, vocabulary or word lists differ); choose another index= "
                    "folder, or leave out checkpoint= to use the index's own matcher"
                )
        if index.ids != names or index.captions != split.captions:
            raise ValueError(
                f"the index {folder} is not of split {split.name} in {split.folder} "
                f"({len(index.ids)} and {split.num_images} images); choose another index= folder"
            )
        for what, same in (("features", _same_images), ("sentence vectors", _same_vectors)):
            if not same(index, split):
                raise ValueError(
                    f"the index {folder} was made from other {what} than those of split "
                    f"{split.name} in {split.folder}; choose another index= folder, or delete it"
                )
        if kind is not None and set(index.kinds.values()) != {kind}:
            kinds = ", ".join(dict.fromkeys(index.kinds.values()))
            raise ValueError(
                f"kind={kind}, but the index {folder} is {kinds}; choose another index= folder"
            )
        index.shortlist = shortlist
        return index
    if checkpoint is None:
        raise FileNotFoundError(f"no index in {folder}: give checkpoint= to build one")
    if folder is not None:
        check_place(Path(folder))  # before all images are encoded
    matcher = load(checkpoint, model_class=model_class, device=device)
    index = Index(matcher, split, names, kind=kind, shortlist=shortlist, batch_size=batch_size)
    if folder is not None:
        index.save(folder)
    return index


def _same_images(index: Index, split: Split) -> bool:
    """Compare the features with those of the index; for an old index, encodings of a sample."""
    if index.digest is not None:
        return index.digest == feature_digest(split)
    rows = _sample(split.num_images)
    return _close(index, "images", rows, shelve_images(index.matcher, split.images(rows), ROWS))


def _same_vectors(index: Index, split: Split) -> bool:
    """Do the same for captions that are read as sentence vectors; words are compared as such."""
    if not as_text_encoder(index.matcher.text).needs_vectors:
        return True
    rows = _sample(len(split.captions))
    vectors = split.sentence_file()[rows]
    return _close(index, "captions", rows, shelve_captions(index.matcher, vectors, ROWS))


def _sample(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, ROWS).astype(np.int64))


def _close(index: Index, side: str, rows: np.ndarray, shelf: Shelf) -> bool:
    """Compare encodings with those of the index; devices differ a little."""
    found, kept = shelf.vectors.cpu(), index._shelves[side].vectors[torch.from_numpy(rows)].cpu()
    if found.shape != kept.shape:
        return False
    return bool(
        ((found - kept).norm(dim=1) <= CLOSE * (found.norm(dim=1) + kept.norm(dim=1))).all()
    )


def _facts(matcher: Matcher) -> str:
    """Return all that is saved besides tensors, without the version that wrote it."""
    state = {key: value for key, value in pack_state(matcher).items() if key != "version"}
    facts = {**state, "arguments": saved_arguments(matcher)}
    return json.dumps(facts, sort_keys=True, default=str)


def _same_matcher(a: Matcher, b: Matcher) -> bool:
    """Whether two matchers have equal options, words and tensors, on whatever devices."""
    mine, other = a.state_dict(), b.state_dict()
    return (
        _facts(a) == _facts(b)
        and mine.keys() == other.keys()
        and all(
            mine[k].shape == other[k].shape and bool((mine[k] == other[k].cpu()).all())
            for k in mine
        )
    )
