"""Store encodings of many images or captions, so that a few can be taken out fast and exactly.

Items with equally many parts (regions or words) form a group. So nothing is padded, and each tensor
of a group is dense, in memory or mapped from a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from itm.batch import Captions, Chunk, Encoded, Images, concatenate, map_encoded, parts_of, take
from itm.data.padding import take_captions
from itm.layers.functional import global_vector
from itm.matcher.inputs import (
    batch_starts,
    check_captions,
    check_features,
    image_batches,
    tokenise,
)
from itm.matcher.matcher import Matcher
from itm.utils.files import unfinished_beside
from itm.utils.readers import reading

if TYPE_CHECKING:
    from itm.data.layout import Features

PIECE = 1024  # items whose encodings are gathered at once
NAME = re.compile(r"(\d{1,9})\.(rows|vector|parts|aux\..+)")
# What `_storable` leaves; safetensors keeps them all.
KINDS = (torch.float32, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


class Shelf:
    """Encodings of N items.

    Args:
        vectors: (N, D) global vectors, which items are searched by.
        groups: encodings with their rows, each group with equally many parts; None if there are
            vectors only.

    Raises:
        ValueError: a vector holds NaN or infinite values.
    """

    def __init__(self, vectors: Tensor, groups: Sequence[Chunk] | None = None):
        if not (good := vectors.isfinite().all(1)).all():
            row = int((~good).nonzero()[0])
            raise ValueError(f"the encoding of item {row} holds NaN or infinite values")
        self.vectors = vectors
        self.only_vectors = groups is None
        self.groups = [(Encoded(vectors), torch.arange(len(vectors)))] if groups is None else groups
        self._group = torch.full((len(vectors),), -1)
        self._place = torch.zeros(len(vectors), dtype=torch.long)
        for number, (_, rows) in enumerate(self.groups):
            self._group[rows], self._place[rows] = number, torch.arange(len(rows))

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: Tensor | None = None) -> Iterator[Chunk]:
        """Yield items in pieces, each with its positions in `rows`; all items if `rows` is None."""
        for number, (encoded, own) in enumerate(self.groups):
            if rows is None:
                places, positions = None, own
            else:
                positions = (self._group[rows] == number).nonzero().squeeze(1)
                places = self._place[rows[positions]]
            for start in range(0, len(positions), PIECE):
                piece = slice(start, start + PIECE)  # a view of a whole group, without a copy
                chosen = take(encoded, piece if places is None else places[piece])
                yield _with_mask(chosen), positions[piece]

    def save(self, path: Path) -> None:
        """Write all tensors to one safetensors file."""
        tensors = {"vectors": self.vectors}
        for number, (encoded, rows) in enumerate(() if self.only_vectors else self.groups):
            found = {"rows": rows, "vector": encoded.vector, "parts": encoded.parts}
            found |= {f"aux.{name}": value for name, value in (encoded.aux or {}).items()}
            tensors |= {f"{number}.{k}": v for k, v in found.items() if v is not None}
        # Not in place: these tensors may be mapped from this file.
        with unfinished_beside(path) as unfinished:
            try:
                save_file({name: value.contiguous() for name, value in tensors.items()}, unfinished)
            except SafetensorError as error:
                raise OSError(f"cannot write {path} ({error})") from error

    @classmethod
    def load(cls, path: Path, count: int) -> Shelf:
        """Read the shelf that `save` wrote, memory-mapped.

        Raises:
            OSError: the file cannot be opened.
            ValueError: the file is damaged, of another kind, or does not hold `count` items.
        """
        with reading(path, "is damaged; build the index again"):
            tensors = load_file(path)
        groups: dict[int, dict[str, Tensor]] = {}
        vectors = tensors.pop("vectors", torch.zeros(0))
        for name, value in tensors.items():
            match = NAME.fullmatch(name)
            if match is None or value.dtype not in KINDS:
                raise ValueError(f"{path}: unexpected tensor {name!r} ({value.dtype})")
            groups.setdefault(int(match[1]), {})[match[2]] = value
        if vectors.dtype != torch.float32 or vectors.ndim != 2 or len(vectors) != count:
            raise ValueError(
                f"{path}: vectors are {vectors.dtype} {tuple(vectors.shape)}, expected float32 "
                f"({count}, D) for {count} items"
            )
        if not groups:
            return cls(vectors)
        shelf = cls(vectors, [_group(path, found, count) for _, found in sorted(groups.items())])
        sizes = sum(len(rows) for _, rows in shelf.groups)
        if sizes != count or (shelf._group < 0).any():
            raise ValueError(f"{path}: its groups hold {sizes} rows, expected each of {count} once")
        return shelf


def _group(path: Path, found: dict[str, Tensor], count: int) -> Chunk:
    rows, parts, vector = (found.pop(name, None) for name in ("rows", "parts", "vector"))
    if rows is None or rows.dtype != torch.int64 or rows.ndim != 1 or not len(rows):
        raise ValueError(f"{path}: a group must have rows (n,) of int64")
    if int(rows.min()) < 0 or int(rows.max()) >= count:
        found_range = f"{int(rows.min())} to {int(rows.max())}"
        raise ValueError(f"{path}: rows must be from 0 to {count - 1}, got {found_range}")
    for value, dims in ((parts, 3), (vector, 2)):
        if value is not None and (value.ndim != dims or value.dtype != torch.float32):
            shape = f"{value.dtype} {tuple(value.shape)}"
            raise ValueError(f"{path}: expected float32 with {dims} dimensions, got {shape}")
    aux = {name.removeprefix("aux."): value for name, value in found.items()}
    encoded = Encoded(vector, parts, None, aux or None)
    if any(len(x) != len(rows) for x in (vector, parts, *aux.values()) if x is not None):
        raise ValueError(f"{path}: tensors of a group must have {len(rows)} rows")
    if vector is None and parts is None:
        raise ValueError(f"{path}: a group must have vectors or parts")
    return encoded, rows


def _with_mask(encoded: Encoded) -> Encoded:
    """Add the mask, which is True everywhere: in a group every part is real."""
    if encoded.parts is None:
        return encoded
    return encoded._replace(mask=torch.ones(encoded.parts.shape[:2], dtype=torch.bool))


# Encoding -----------------------------------------------------------------------------------------


def shelve_images(matcher: Matcher, features: Features, batch_size: int) -> Shelf:
    """Encode images: (N, R, F) or (N, F) arrays, memory maps, or a list of (R_i, F)."""
    check_features(features, matcher)
    return shelve(matcher, _image_batches(features, batch_size))


def shelve_captions(
    matcher: Matcher, captions: Sequence[str] | np.ndarray, batch_size: int
) -> Shelf:
    """Encode sentences, or an (M, F) array of sentence vectors."""
    return shelve(matcher, caption_groups(matcher, captions, batch_size))


@torch.no_grad()
def shelve(matcher: Matcher, batches: Iterator[Images] | Iterator[Captions]) -> Shelf:
    """Encode batches whose items have equally many parts."""
    only_vectors = matcher.ranks_by_vectors
    vectors, chunks = [], []
    for batch in batches:
        for encoded, rows in matcher.encode([batch]):
            vectors.append((global_vector(encoded).float(), rows))
            if not only_vectors:
                chunks.append((map_encoded(encoded, _storable), rows))
    every = torch.cat([x for x, _ in vectors])
    order = torch.cat([rows for _, rows in vectors]).argsort()
    if only_vectors:
        return Shelf(every[order])
    sizes = sorted({parts_of(encoded) for encoded, _ in chunks})
    same = [[chunk for chunk in chunks if parts_of(chunk[0]) == size] for size in sizes]
    return Shelf(every[order], [_join(group) for group in same])


def _join(chunks: list[Chunk]) -> Chunk:
    encoded = concatenate([chunk for chunk, _ in chunks])
    return encoded._replace(mask=None), torch.cat([rows for _, rows in chunks])


def _storable(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


def _image_batches(features: Features, size: int) -> Iterator[Images]:
    """Yield all images; those of a list in batches with equally many regions."""
    if not isinstance(features, list | tuple):
        yield from image_batches(features, size)
        return
    counts = np.array([len(np.atleast_2d(x)) for x in features])
    for count in np.unique(counts):
        rows = np.flatnonzero(counts == count)
        for batch in image_batches([features[row] for row in rows], size):
            yield batch._replace(index=torch.from_numpy(rows)[batch.index])


def caption_groups(
    matcher: Matcher, captions: Sequence[str] | np.ndarray, size: int
) -> Iterator[Captions]:
    """Return an iterator over all captions in batches of equal length.

    The captions are checked at once, before a caller encodes images.

    Raises:
        ValueError: as for `tokenise`, or `size` is below 1.
    """
    check_captions(captions)
    every = tokenise(matcher, captions, range(len(captions)), [0] * len(captions))
    lengths = np.array(every.lengths)
    groups = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
    batches = [
        rows[start : start + size] for rows in groups for start in batch_starts(len(rows), size)
    ]
    return (take_captions(every, rows) for rows in batches)
