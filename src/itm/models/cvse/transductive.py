"""CVSE's label completion: captions of the test set share concept labels with their neighbours.

The published numbers of CVSE use it. The result of one query then depends on all other queries, so
this does not measure a system that answers one query at a time: report it as transductive, next to
the inductive numbers of `Matcher.score`.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from itm.batch import Captions
from itm.layers.functional import l2norm
from itm.matcher.inputs import Features, caption_batches
from itm.models.cvse.cvse import CVSE

# (similar, ranked) of `complete_labels` in the original code, by data set.
PUBLISHED = {"f30k": (3, 3), "coco": (2, 1)}


@torch.no_grad()
def score_transductive(
    matcher: CVSE,
    features: Features,
    captions: Sequence[str],
    similar: int = 3,
    ranked: int = 3,
    batch_size: int = 128,
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """Score every image with every caption, (N, M), with completed concept labels.

    Args:
        matcher: CVSE with its vocabulary and its concepts.
        features: all N images of the test set.
        captions: all M captions of the test set.
        similar: number of neighbours by caption similarity, see `complete_labels` (Flickr30K: 3,
            COCO: 2).
        ranked: number of neighbours by the image's ranking (Flickr30K: 3, COCO: 1).
        batch_size: number of images or captions encoded at once.
        labels: (M, K) labels to complete; by default the concepts among each caption's words.

    Raises:
        ValueError: the matcher has no concepts or no vocabulary, and no labels are given.
    """
    if labels is None:
        if matcher.concepts is None or matcher.vocab is None:
            raise ValueError(
                "this matcher has no concept words or no vocabulary: set them with "
                "set_concepts(...) and vocab=..., or pass labels="
            )
        labels = matcher.concepts.label([matcher.vocab.as_read(caption) for caption in captions])
    words = caption_batches(matcher, captions, batch_size, labels)  # first, since this checks them
    images = torch.from_numpy(matcher.embed(features, batch_size=batch_size))
    width = images.shape[1] // 2  # the fused level comes first

    def encode(batches: Iterable[Captions]) -> Tensor:
        out = torch.empty(len(captions), 2 * width)
        for encoded, rows in matcher.encode(batches):
            assert encoded.vector is not None
            out[rows] = encoded.vector.float()
        return out

    own = encode(words)
    completed = complete_labels(images[:, :width], own[:, :width], labels, similar, ranked)
    words = caption_batches(matcher, captions, batch_size, completed)
    return (images @ encode(words).T).numpy()


def complete_labels(
    images: Tensor,
    captions: Tensor,
    labels: np.ndarray,
    similar: int = 3,
    ranked: int = 3,
    block: int = 1024,
) -> np.ndarray:
    """Take the maximum of the labels over each caption and its neighbours, (M, K).

    Args:
        images: (N, D) fused image vectors.
        captions: (M, D) fused caption vectors.
        labels: (M, K) labels of the captions' own words.
        similar: number of neighbours from `similar_captions`.
        ranked: number of neighbours from `ranked_captions`.
        block: number of captions compared with all others at once.
    """
    near = similar_captions(captions, similar, block)  # (M, similar)
    beside = ranked_captions(images, captions)[:, :ranked]  # (M, ranked)
    own = np.arange(len(labels))[:, None]
    neighbours = np.concatenate([near, beside, own], axis=1)
    completed = np.zeros_like(labels)
    for column in neighbours.T:
        np.maximum(completed, labels[column], out=completed)
    return completed


def similar_captions(captions: Tensor, count: int, block: int = 1024) -> np.ndarray:
    """Find the `count` other captions with the highest cosine, (M, count); fewer if M is small."""
    unit = l2norm(captions)
    count = min(count, len(unit) - 1)
    rows = []
    for start in range(0, len(unit), block):
        cosine = unit[start : start + block] @ unit.T  # (block, M)
        cosine[torch.arange(len(cosine)), torch.arange(start, start + len(cosine))] = -2.0
        rows.append(cosine.topk(count, dim=1).indices)
    return torch.cat(rows).numpy()


def ranked_captions(images: Tensor, captions: Tensor, width: int = 3) -> np.ndarray:
    """Find the 3 captions around each caption in the ranking of its best image, (M, 3).

    These are the captions at positions p - 1, p, p + 1 of n; the first three if p < 2, the last
    three if p >= n - 3, and all captions if there are fewer than three.
    """
    best = (images @ captions.T).argmax(0).numpy()  # (M,) image of each caption
    size = len(captions)
    out = np.empty((size, min(width, size)), np.int64)
    for image in np.unique(best):
        order = (-(captions @ images[image])).argsort(stable=True).numpy()  # captions, best first
        place = np.empty(size, np.int64)
        place[order] = np.arange(size)
        for caption in np.flatnonzero(best == image):
            start = place[caption] - 1 if place[caption] > 1 else 0
            if place[caption] >= size - width:
                start = max(size - width, 0)
            out[caption] = order[start : start + width]
    return out
