"""Score only the pairs that cheap scores put first; all others keep their cheap order, behind them.

A matcher that compares regions with words scores a pair far more slowly than two global vectors
are multiplied. So the cosines of global vectors (for these matchers, of the mean region and the
mean word) choose the `k` best captions of each image and the `k` best images of each caption, and
the matcher scores the chosen pairs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from itm.batch import Chunk, concatenate, take, to_device
from itm.layers.functional import global_vector, l2norm
from itm.matcher.protocol import MatcherLike
from itm.matcher.scoring import evaluating
from itm.utils.devices import precision_context

BLOCK = 512  # rows or columns whose best are found at once


@torch.no_grad()
def score_shortlist(
    matcher: MatcherLike,
    images: Sequence[Chunk],
    captions: Sequence[Chunk],
    k: int,
    out: np.ndarray,
    precision: str | None = None,
    watch: Callable[[Sequence[Chunk]], Iterable[Chunk]] = iter,
) -> np.ndarray:
    """Score the pairs that are among the best k of their image or of their caption.

    The chosen pairs have the scores of `matcher.similarity`. All others lie below the lowest of
    these, in the order of their cosines. So a query's ranking is exact among its chosen candidates,
    and a match that was not chosen ranks behind them.

    Args:
        matcher: in any mode, which is restored afterwards.
        images: chunks that `itm.matcher.scoring.encode` returned for images.
        captions: chunks that it returned for captions.
        k: length of a shortlist.
        out: (N, M) float32 to fill.
        precision: as in `itm.matcher.scoring.score`.
        watch: iterates over the captions, for a progress bar.

    Returns:
        (N, M) bool, the chosen pairs.

    Raises:
        ValueError: k is below 1, or the matcher scores by vectors alone.
    """
    if k < 1:
        raise ValueError(f"shortlist={k} must be at least 1")
    if matcher.ranks_by_vectors:
        raise ValueError(
            f"shortlist={k}: the score of {type(matcher).__name__} is a product of vectors, which "
            "is as cheap as a shortlist; leave the option out"
        )
    device, lowest = matcher.device, np.inf
    near = cosines(images, captions, out)
    chosen = shortlisted(near, k)
    pictures = to_device(concatenate([encoded for encoded, _ in images]), device)
    row_of = torch.cat([rows for _, rows in images])
    with evaluating(matcher), precision_context(device, precision):
        for encoded, columns in watch(captions):
            encoded = to_device(encoded, device)
            for place, column in enumerate(columns.tolist()):
                places = torch.from_numpy(chosen[row_of.numpy(), column].nonzero()[0])
                caption = take(encoded, slice(place, place + 1))
                scores = matcher.similarity(take(pictures, places), caption)[:, 0]
                found = scores.float().cpu().numpy()
                out[row_of[places].numpy(), column] = found
                lowest = min(lowest, found.min())
    for start in range(0, len(out), BLOCK):
        rows = slice(start, start + BLOCK)
        behind = lowest - 2 + near[rows] / 2  # cosines of -1 to 1 -> 2.5 to 1.5 below the lowest
        np.copyto(out[rows], behind, where=~chosen[rows])
    return chosen


def cosines(images: Sequence[Chunk], captions: Sequence[Chunk], out: np.ndarray) -> np.ndarray:
    """Compute the cosines of the global vectors of all images and captions, in the shape of out."""

    def vectors(chunks: Sequence[Chunk], count: int) -> Tensor:
        found = torch.cat([l2norm(global_vector(encoded).float()) for encoded, _ in chunks])
        rows = torch.cat([rows for _, rows in chunks])
        return torch.empty(count, found.shape[1]).index_copy_(0, rows, found)

    near: np.ndarray = (vectors(images, len(out)) @ vectors(captions, out.shape[1]).T).numpy()
    return near


def shortlisted(near: np.ndarray, k: int) -> np.ndarray:
    """Mark the pairs that are among the k largest of their row or their column, (N, M) bool."""
    chosen = np.zeros(near.shape, bool)
    for values, marks in ((near, chosen), (near.T, chosen.T)):
        size = values.shape[1]
        if k >= size:
            marks[:] = True
            continue
        for start in range(0, len(values), BLOCK):
            rows = slice(start, start + BLOCK)
            best = np.argpartition(values[rows], size - k, axis=1)[:, size - k :]
            np.put_along_axis(marks[rows], best, True, axis=1)
    return chosen
