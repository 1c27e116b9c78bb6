"""The similarity matrix of a whole split, from encodings, in blocks under a memory budget."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from itm.batch import Encoded

MEMORY_BUDGET = 1 << 30  # bytes that one block of scores may need, intermediates included

Chunk = tuple[Encoded, Tensor]  # encodings of n images or captions, and their n rows in the split


def map_encoded(encoded: Encoded, function: Callable[[Tensor], Tensor]) -> Encoded:
    """Apply a function to every tensor of an `Encoded`."""
    aux = encoded.aux and {name: function(value) for name, value in encoded.aux.items()}
    vector, parts, mask = (None if x is None else function(x) for x in encoded[:3])
    return Encoded(vector, parts, mask, aux)


def take(encoded: Encoded, rows: slice | Tensor) -> Encoded:
    """The given rows of an `Encoded`."""
    return map_encoded(encoded, lambda x: x[rows])


def concatenate(encodings: Sequence[Encoded]) -> Encoded:
    """One `Encoded` from several; parts are padded to the longest."""
    size = max((e.parts.shape[1] for e in encodings if e.parts is not None), default=0)

    def join(tensors: list[Tensor], padded: bool) -> Tensor:
        if padded:
            tensors = [
                torch.cat([x, x.new_zeros(x.shape[0], size - x.shape[1], *x.shape[2:])], 1)
                for x in tensors
            ]
        return torch.cat(tensors)

    def field(name: str, padded: bool) -> Tensor | None:
        values = [getattr(e, name) for e in encodings]
        return None if values[0] is None else join(values, padded)

    first = encodings[0].aux
    aux = first and {k: torch.cat([e.aux[k] for e in encodings if e.aux]) for k in first}
    return Encoded(field("vector", False), field("parts", True), field("mask", True), aux)


def parts_of(encoded: Encoded) -> int:
    """How many parts (regions or words) each row is padded to; 1 for a global vector."""
    return 1 if encoded.parts is None else encoded.parts.shape[1]


def rows_of(encoded: Encoded) -> int:
    """How many images or captions an `Encoded` holds."""
    return next(len(x) for x in (encoded.vector, encoded.parts) if x is not None)


def similarity_matrix(
    similarity: Callable[[Encoded, Encoded], Tensor],
    images: Sequence[Chunk],
    captions: Sequence[Chunk],
    pair_floats: Callable[[int, int], int],
    device: torch.device | str = "cpu",
    memory_budget: int = MEMORY_BUDGET,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Scores of every image with every caption, each encoded once.

    Args:
        similarity: (I block, C block) -> scores (I, C).
        images: chunks of encoded images with their rows.
        captions: chunks of encoded captions with their rows; tight when sorted by length.
        pair_floats: (regions, words) -> float32 values that one image-caption pair needs.
        device: where blocks are computed.
        memory_budget: bytes one block may need; blocks are sized from it.
        out: (N, M) float32 array or memory map to fill; made when None.

    Returns:
        (N, M) float32, row = image, column = caption.
    """
    if out is None:
        shape = (_extent(images), _extent(captions))
        out = np.empty(shape, np.float32)
    for image_block, image_rows in images:
        image_block = map_encoded(image_block, lambda x: x.to(device))
        for caption_chunk, caption_rows in captions:
            cost = 4 * pair_floats(parts_of(image_block), parts_of(caption_chunk))
            step = max(1, memory_budget // (cost * len(image_rows)))
            for start in range(0, len(caption_rows), step):
                rows = caption_rows[start : start + step]
                block = take(caption_chunk, slice(start, start + step))
                scores = similarity(image_block, map_encoded(block, lambda x: x.to(device)))
                out[np.ix_(image_rows.numpy(), rows.numpy())] = scores.float().cpu().numpy()
    return out


def _extent(chunks: Sequence[Chunk]) -> int:
    """One more than the largest row."""
    return max((int(rows.max()) for _, rows in chunks), default=-1) + 1
