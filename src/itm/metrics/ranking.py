"""Ranks by counting, and stable top-k lists: the two primitives of every retrieval metric.

Ties are broken as in a stable descending sort: of two candidates with equal scores, the one with
the lower index comes first, so a constant score matrix does not look perfect.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

Matrix = np.ndarray | Tensor
Ranks = tuple[np.ndarray, np.ndarray]

KS = (1, 5, 10)  # the K of the recalls and other metrics at K that the field reports
RECALLS = tuple(f"{way}_r{k}" for way in ("i2t", "t2i") for k in KS)  # whose sum is rsum
TILE = 1024  # rows and columns compared at once: 4 MB of float32 stay in the processor's cache


def to_numpy(scores: Matrix) -> np.ndarray:
    """Return the scores as an array of the machine's byte order and at most 64 bits.

    Half precision of a tensor becomes float32, as numpy lacks bfloat16.
    """
    if isinstance(scores, np.ndarray):
        if scores.dtype.kind == "f" and scores.dtype.itemsize > 8:  # torch has no longer floats
            return scores.astype(np.float64)
        return scores if scores.dtype.isnative else scores.astype(scores.dtype.newbyteorder("="))
    return (scores if scores.dtype == torch.float64 else scores.float()).detach().cpu().numpy()


def as_floats(scores: np.ndarray) -> np.ndarray:
    """Return scores that can be sorted by their negative: unsigned integers would wrap around.

    Raises:
        ValueError: scores contain NaN.
    """
    scores = scores if scores.dtype.kind == "f" else scores.astype(np.float64)
    if np.isnan(scores).any():
        raise ValueError("cannot rank scores that contain NaN")
    return scores


def caption_rows(
    caption_image: ArrayLike | Tensor | None, images: int, captions: int
) -> np.ndarray:
    """Check the image row of every caption; None means five consecutive captions per image.

    Args:
        caption_image: (M,) row of each caption's image, or None.
        images: N.
        captions: M.

    Returns:
        (M,) int64.

    Raises:
        ValueError: `caption_image` is None although M is not 5N, has the wrong length, does not
            hold integers, or holds rows outside 0..N-1.
    """
    if caption_image is None:
        if captions != 5 * images:
            raise ValueError(
                f"{captions} captions of {images} images are not five per image: "
                "pass caption_image, the row of each caption's image"
            )
        return np.arange(captions) // 5
    rows = np.asarray(caption_image.cpu() if isinstance(caption_image, Tensor) else caption_image)
    if rows.shape != (captions,) or (captions and rows.dtype.kind not in "iu"):
        raise ValueError(
            f"caption_image must hold {captions} integers, one per caption, "
            f"got shape {rows.shape} of {rows.dtype}"
        )
    if captions and (rows.min() < 0 or rows.max() >= images):
        raise ValueError(
            f"caption_image must lie in 0..{images - 1} for {images} images, "
            f"got {rows.min()}..{rows.max()}"
        )
    return rows.astype(np.int64)


def ranks(scores: Matrix, caption_image: ArrayLike | Tensor | None = None) -> Ranks:
    """Count the candidates that come before the right one, for every image and every caption.

    i2t[i] = number of captions that come before the best own caption of image i,
    t2i[c] = number of images that come before the image of caption c; 0 is a hit at rank 1.

    Args:
        scores: (N, M) similarity of N images and M captions, larger is better; an array, a
            memory map or a tensor on any device. It is read in tiles and never copied as a whole.
        caption_image: (M,) row of each caption's image; None means five captions per image.

    Returns:
        (N,) and (M,) int64 arrays. An image without captions is not a query; its rank is -1.

    Raises:
        ValueError: scores are not a matrix, contain NaN, or do not match `caption_image`.
    """
    if scores.ndim != 2:
        raise ValueError(f"scores must be an images x captions matrix, got {tuple(scores.shape)}")
    own = caption_rows(caption_image, *scores.shape)
    device = scores.device if isinstance(scores, Tensor) else torch.device("cpu")

    def tile(i: slice, c: slice) -> Tensor:
        if isinstance(scores, Tensor):
            return scores[i, c].clone()
        return torch.from_numpy(to_numpy(np.array(scores[i, c])))

    return _count_better(tile, scores.shape[0], torch.from_numpy(own).to(device), TILE)


def streamed_ranks(
    image_vectors: Matrix,
    caption_vectors: Matrix,
    caption_image: ArrayLike | Tensor | None = None,
    block: int = TILE,
) -> Ranks:
    """Compute `ranks` of `image_vectors @ caption_vectors.T` without storing that matrix.

    Args:
        image_vectors: (N, D).
        caption_vectors: (M, D).
        caption_image: (M,) row of each caption's image; None means five captions per image.
        block: number of images and of captions multiplied at once.

    Returns:
        As for `ranks`.

    Raises:
        ValueError: as for `ranks`, or the widths differ.
    """
    images, captions = _to_tensor(image_vectors), _to_tensor(caption_vectors)
    if images.ndim != 2 or captions.ndim != 2 or images.shape[1] != captions.shape[1]:
        raise ValueError(
            "image and caption vectors must be matrices of the same width, "
            f"got {tuple(images.shape)} and {tuple(captions.shape)}"
        )
    own = caption_rows(caption_image, len(images), len(captions))
    # Half precision would merge neighbouring scores into ties.
    dtype = torch.promote_types(torch.promote_types(images.dtype, captions.dtype), torch.float32)
    images, captions = images.to(dtype), captions.to(dtype)

    def tile(i: slice, c: slice) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return images[i] @ captions[c].T

    return _count_better(tile, len(images), torch.from_numpy(own).to(images.device), block)


@torch.no_grad()
def _count_better(tile: Callable[[slice, slice], Tensor], n: int, own: Tensor, block: int) -> Ranks:
    """Count ranks from tiles of the score matrix; `tile` must return writable memory.

    The scores of the positives come from the same tiles that they are compared with: a product of
    another shape may round differently, and an item would then rank above itself.
    """
    m, device = len(own), own.device
    image, caption = torch.arange(n, device=device), torch.arange(m, device=device)

    def positives(i: slice, c: slice) -> tuple[Tensor, Tensor]:
        columns = ((own[c] >= i.start) & (own[c] < i.stop)).nonzero()[:, 0]
        return own[c][columns] - i.start, columns

    def tiles() -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        for a in range(0, n, block):
            for b in range(0, m, block):
                i, c = slice(a, min(a + block, n)), slice(b, min(b + block, m))
                yield i, c, *positives(i, c)

    own_score = torch.empty(0, device=device)
    for i, c, rows, columns in tiles():
        if len(rows):
            scores = _checked(tile(i, c))
            if not len(own_score):
                own_score = scores.new_empty(m)
            own_score[c.start + columns] = scores[rows, columns]

    best = own_score.new_full((n,), -torch.inf).scatter_reduce(0, own, own_score, "amax")
    leads = own_score == best[own]  # captions with their image's best score; the first counts
    place = torch.full((n,), m, device=device)
    place = place.scatter_reduce(0, own[leads], caption[leads], "amin")

    i2t, t2i = torch.zeros_like(image), torch.zeros_like(own)
    buffer = torch.empty(min(block, n), min(block, m), device=device)  # reused: no page faults
    for i, c, rows, columns in tiles():
        scores = _checked(tile(i, c))
        scores[rows, columns] = -torch.inf  # positives are not candidates
        flags = buffer[: scores.shape[0], : scores.shape[1]]
        for total, at, bound, dim in ((i2t, i, best[i, None], 1), (t2i, c, own_score[c], 0)):
            better = torch.gt(scores, bound, out=flags).sum(dim)
            total[at] += better.long()
            if not torch.equal(torch.ge(scores, bound, out=flags).sum(dim), better):
                before = caption[c] < place[i, None] if dim else image[i, None] < own[c]
                total[at] += ((scores == bound) & before).sum(dim)
    i2t[torch.bincount(own, minlength=n) == 0] = -1
    return i2t.cpu().numpy(), t2i.cpu().numpy()


def _to_tensor(values: Matrix) -> Tensor:
    if isinstance(values, np.ndarray):  # torch needs writable memory: copy a read-only map
        return torch.from_numpy(np.require(to_numpy(values), requirements=["C", "W"]))
    return values


def _checked(scores: Tensor) -> Tensor:
    if not scores.is_floating_point():
        scores = scores.double()
    if scores.max().isnan():  # a maximum keeps NaN
        raise ValueError(
            "the similarity matrix contains NaN: look for zero vectors, an overflow in half "
            "precision, or a diverged model"
        )
    return scores


def topk(scores: np.ndarray, k: int) -> np.ndarray:
    """Find the k best candidates of every query, best first; the lower index wins a tie.

    Args:
        scores: (Q, G) scores of Q queries against a gallery of G; any strides, read in blocks.
        k: length of the lists, at most G.

    Returns:
        (Q, min(k, G)) int64 columns.

    Raises:
        ValueError: scores contain NaN.
    """
    queries, gallery = scores.shape
    k = min(k, gallery)
    items = np.empty((queries, k), np.int64)
    step = max(1, 2**22 // max(gallery, 1))
    for start in range(0, queries if k else 0, step):
        block = np.ascontiguousarray(scores[start : start + step])
        items[start : start + step] = _topk(block, k)
    return items


def _topk(scores: np.ndarray, k: int) -> np.ndarray:
    scores = as_floats(scores)
    gallery = scores.shape[1]
    items = np.argpartition(scores, gallery - k, axis=1)[:, gallery - k :]
    items.sort(axis=1)
    values = np.take_along_axis(scores, items, 1)
    items = np.take_along_axis(items, np.argsort(-values, axis=1, kind="stable"), 1)
    # The partition resolves a tie across the cut arbitrarily: sort such rows in full.
    cut = values.min(1, keepdims=True)
    split = np.flatnonzero((scores == cut).sum(1) > (values == cut).sum(1))
    if len(split):
        items[split] = np.argsort(-scores[split], axis=1, kind="stable")[:, :k]
    return items


def expand(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Concatenate runs of length[i] consecutive numbers that begin at start[i]."""
    skip = np.cumsum(length) - length
    numbers: np.ndarray = np.arange(length.sum()) + np.repeat(start - skip, length)
    return numbers
