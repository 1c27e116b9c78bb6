"""Compute the similarity matrix of a whole split from encodings, block by block."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from itm.batch import Chunk, Encoded, map_encoded, parts_of, take

MEMORY_BUDGET = 1 << 30  # bytes that one block of scores may need, intermediates included


def similarity_matrix(
    similarity: Callable[[Encoded, Encoded], Tensor],
    images: Sequence[Chunk],
    captions: Sequence[Chunk],
    pair_floats: Callable[[int, int], int],
    device: torch.device | str = "cpu",
    memory_budget: int = MEMORY_BUDGET,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Score every image with every caption from their encodings.

    Args:
        similarity: (encoded images, encoded captions) -> scores (I, C).
        images: chunks of encoded images with their rows.
        captions: chunks of encoded captions with their rows; sort by length to reduce padding.
        pair_floats: (regions, words) -> float32 values that one image-caption pair needs.
        device: where blocks are computed.
        memory_budget: bytes that one block may need. If the device has less memory, blocks are
            halved until they fit.
        out: (N, M) float32 array or memory map to fill; None = a new array.

    Returns:
        (N, M) float32, row = image, column = caption.
    """
    if out is None:
        shape = (_extent(images), _extent(captions))
        out = np.empty(shape, np.float32)
    for image_chunk, image_rows in images:
        here = map_encoded(image_chunk, lambda x: x.to(device)), image_rows
        for chunk in captions:
            cost = 4 * pair_floats(parts_of(image_chunk), parts_of(chunk[0]))
            planned = max(1, memory_budget // cost)
            pairs = _fill(out, similarity, here, chunk, planned, device)
            if pairs < planned:  # the device has less memory than the budget: lower the budget
                memory_budget = pairs * cost
    return out


def _fill(
    out: np.ndarray,
    similarity: Callable[[Encoded, Encoded], Tensor],
    images: Chunk,
    captions: Chunk,
    pairs: int,
    device: torch.device | str,
) -> int:
    """Score all pairs of two chunks in blocks of at most `pairs` pairs, halved until they fit.

    Returns:
        Number of pairs that fitted at once, at most `pairs`.

    Raises:
        torch.OutOfMemoryError: a single pair does not fit.
    """
    (image_block, image_rows), (caption_block, caption_rows) = images, captions
    size = len(image_rows) * len(caption_rows)
    if size == 0:
        return pairs
    if size <= pairs:
        try:
            there = map_encoded(caption_block, lambda x: x.to(device))
            scores = similarity(image_block, there).float().cpu().numpy()
            out[np.ix_(image_rows.numpy(), caption_rows.numpy())] = scores
            return pairs
        except torch.cuda.OutOfMemoryError:  # of any device; torch.OutOfMemoryError since 2.5
            if size == 1:
                raise
            pairs = size // 2
    # Outside the handler, because inside it the exception keeps the block's memory allocated.
    if len(caption_rows) > 1:
        blocks = [(images, half) for half in _halves(captions)]
    else:
        blocks = [(half, captions) for half in _halves(images)]
    for block in blocks:
        pairs = _fill(out, similarity, *block, pairs, device)
    return pairs


def _halves(chunk: Chunk) -> list[Chunk]:
    encoded, rows = chunk
    middle = len(rows) // 2
    return [(take(encoded, x), rows[x]) for x in (slice(middle), slice(middle, None))]


def _extent(chunks: Sequence[Chunk]) -> int:
    """Return the largest row + 1."""
    return max((int(rows.max()) for _, rows in chunks if len(rows)), default=-1) + 1
