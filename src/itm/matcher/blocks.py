"""Compute the similarity matrix of a whole split from encodings, block by block."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itm.batch import Chunk, Encoded, parts_of, take, to_device
from itm.utils.devices import block_bytes, free_memory


def similarity_matrix(
    similarity: Callable[[Encoded, Encoded], Tensor],
    images: Iterable[Chunk],
    captions: Sequence[Chunk],
    pair_floats: Callable[[int, int], int],
    device: torch.device | str = "cpu",
    memory_budget: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Score every image with every caption from their encodings.

    Args:
        similarity: (encoded images, encoded captions) -> scores (I, C).
        images: chunks of encoded images with their rows; read once.
        captions: chunks of encoded captions with their rows; sort by length to reduce padding.
        pair_floats: (regions, words) -> float32 values that one image-caption pair needs.
        device: where blocks are computed. All captions are sent there at once if they fit in half
            of its free memory, else again for each chunk of images.
        memory_budget: bytes that one block may need, intermediates included; None = chosen for the
            device, see `itm.utils.devices.block_bytes`. If the device has less memory, blocks are
            halved until they fit.
        out: (N, M) float32 array or memory map to fill; None = a new array.

    Returns:
        (N, M) float32, row = image, column = caption.
    """
    if out is None:
        images = list(images)
        shape = (_extent("images", images), _extent("captions", captions))
        out = np.empty(shape, np.float32)
    device = torch.device(device)
    memory_budget = block_bytes(device) if memory_budget is None else memory_budget
    if _fits(captions, device, memory_budget):
        captions = [(to_device(encoded, device), rows) for encoded, rows in captions]
    sink = Sink(out)
    for image_chunk, image_rows in images:
        here = to_device(image_chunk, device), image_rows
        for encoded, rows in captions:
            cost = 4 * pair_floats(parts_of(image_chunk), parts_of(encoded))
            planned = max(1, memory_budget // cost)
            pairs = _fill(sink, similarity, here, (to_device(encoded, device), rows), planned)
            if pairs < planned:  # the device has less memory than the budget: lower the budget
                memory_budget = pairs * cost
    sink.finish()
    return out


class Sink:
    """Write blocks of scores into a matrix; blocks of a GPU arrive while the next are computed.

    Args:
        out: (N, M) float32.
    """

    def __init__(self, out: np.ndarray):
        self.out = out
        self.waiting: list[tuple[Any, Tensor, Tensor, Tensor]] = []

    def write(self, scores: Tensor, rows: Tensor, columns: Tensor) -> None:
        """Take scores (I, C) of these rows and columns."""
        if scores.device.type != "cuda":
            self._store(scores.cpu(), rows, columns)
            return
        pinned = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
        pinned.copy_(scores, non_blocking=True)
        arrival = torch.cuda.Event()
        arrival.record(torch.cuda.current_stream(scores.device))  # not that of the current device
        self.waiting.append((arrival, pinned, rows, columns))
        if len(self.waiting) > 2:
            self._arrive()

    def finish(self) -> None:
        """Wait for all blocks."""
        while self.waiting:
            self._arrive()

    def _arrive(self) -> None:
        arrival, *block = self.waiting.pop(0)
        arrival.synchronize()
        self._store(*block)

    def _store(self, scores: Tensor, rows: Tensor, columns: Tensor) -> None:
        self.out[np.ix_(rows.numpy(), columns.numpy())] = scores.numpy()


def _fill(
    sink: Sink,
    similarity: Callable[[Encoded, Encoded], Tensor],
    images: Chunk,
    captions: Chunk,
    pairs: int,
) -> int:
    """Score all pairs of two chunks in blocks of at most `pairs` pairs, halved until they fit.

    Returns:
        Number of pairs that fitted at once, at most `pairs`.

    Raises:
        torch.OutOfMemoryError: a single pair does not fit.
        ValueError: the scores have another shape than (images, captions).
    """
    (image_block, image_rows), (caption_block, caption_rows) = images, captions
    size = len(image_rows) * len(caption_rows)
    if size == 0:
        return pairs
    if size <= pairs:
        try:
            scores = similarity(image_block, caption_block)
            _check_scores(scores, (len(image_rows), len(caption_rows)))
            sink.write(scores.float(), image_rows, caption_rows)
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
        pairs = _fill(sink, similarity, *block, pairs)
    return pairs


def _check_scores(scores: object, expected: tuple[int, int]) -> None:
    """Check what a matcher's own `similarity` returns; other shapes would be broadcast."""
    shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if shape != expected:
        raise ValueError(
            f"similarity(images, captions) must return a tensor (images, captions), here "
            f"{expected}, got {shape}"
        )


def _halves(chunk: Chunk) -> list[Chunk]:
    encoded, rows = chunk
    middle = len(rows) // 2
    return [(take(encoded, x), rows[x]) for x in (slice(middle), slice(middle, None))]


def _fits(chunks: Sequence[Chunk], device: torch.device, otherwise: int) -> bool:
    """Tell whether encodings fill at most half of a device's free memory, or `otherwise` bytes."""
    if device.type == "cpu":
        return False  # nothing to send
    free = free_memory(device)
    tensors = [x for encoded, _ in chunks for x in (*encoded[:3], *(encoded.aux or {}).values())]
    size = sum(x.numel() * x.element_size() for x in tensors if x is not None)
    return size <= (otherwise if free is None else free // 2)


def _extent(side: str, chunks: Sequence[Chunk]) -> int:
    """Count the rows of one side, of which there must be all from 0 on."""
    rows = torch.cat([rows for _, rows in chunks]) if chunks else torch.zeros(0, dtype=torch.long)
    if not torch.equal(rows.sort().values, torch.arange(len(rows))):
        raise ValueError(
            f"the rows of the encoded {side} are not 0 to N-1, each once, but {rows[:5].tolist()}"
            f"{', ...' if len(rows) > 5 else ''}: give all chunks that encode() returned, or out= "
            "of the whole split"
        )
    return len(rows)
