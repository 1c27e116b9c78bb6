"""Define the four tuples that pass between data, matchers and losses, and functions on them.

The library uses one letter per dimension: B pairs, I images, C captions, R regions, L words,
F feature width, D embedding width, V vocabulary size, K concepts or labels. Masks are boolean,
True = real.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class Images(NamedTuple):
    """Region features of I images.

    Attributes:
        regions: (I, R, F) float32; rows beyond an image's own regions are zero.
        mask: (I, R) bool, True = real region.
        index: (I,) int64, identity of each image in its split (equal = the same image).

    Examples:
        >>> import torch
        >>> from itm.batch import Images
        >>> images = Images(
        ...     torch.rand(2, 5, 6), torch.ones(2, 5, dtype=torch.bool), torch.tensor([7, 9])
        ... )
        >>> images.regions.shape
        torch.Size([2, 5, 6])
    """

    regions: Tensor
    mask: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody calls here


class Captions(NamedTuple):
    """C tokenised captions.

    Attributes:
        tokens: (C, L) int64, padded with 0.
        lengths: C true lengths as Python ints; they stay on the host, so that packing a batch
            never waits for the device.
        index: (C,) int64, row of each caption in its split.
        image: (C,) int64, row of the caption's image in the accompanying `Images`
            (the batch in training, the split in evaluation).
        labels: (C, K) float32 multi-hot labels of the caption's image, or None.
        concepts: (C, K) float32 multi-hot concept labels of the caption, or None.
        vectors: (C, F) float32 precomputed sentence vectors, or None.

    Examples:
        >>> import torch
        >>> from itm.batch import Captions
        >>> tokens = torch.tensor([[1, 5, 2, 0], [1, 4, 6, 2]])
        >>> captions = Captions(tokens, (3, 4), index=torch.arange(2), image=torch.tensor([0, 0]))
        >>> captions.lengths
        (3, 4)
    """

    tokens: Tensor
    lengths: tuple[int, ...]
    index: Tensor  # type: ignore[assignment]
    image: Tensor
    labels: Tensor | None = None
    concepts: Tensor | None = None
    vectors: Tensor | None = None


class Pairs(NamedTuple):
    """A training batch: I images and C captions that belong together through `captions.image`.

    Attributes:
        images: the images.
        captions: the captions.
        relevance: (I, C) float32, semantic relevance of caption c for image i, or None.
        target: (I, C) float32 in {+1, 0, -1} for labelled pairs (0 = ignored), or None.
    """

    images: Images
    captions: Captions
    relevance: Tensor | None = None
    target: Tensor | None = None


class Encoded(NamedTuple):
    """One side after its encoder: N images or N captions.

    Attributes:
        vector: (N, D) global vector, or None.
        parts: (N, P, D) region or word vectors, or None.
        mask: (N, P) bool, True = real part, or None.
        aux: further tensors by name, each with N rows, for the matcher's own use, or None;
            "lengths" (C,) int64 is the number of words of each caption and stays on the host.

    Examples:
        >>> import torch
        >>> from itm.batch import Encoded
        >>> Encoded(vector=torch.rand(3, 8)).parts is None
        True
    """

    vector: Tensor | None = None
    parts: Tensor | None = None
    mask: Tensor | None = None
    aux: dict[str, Tensor] | None = None


def check_encoded(encoded: object, method: str) -> None:
    """Raise TypeError if an encoder of one's own does not return `Encoded`."""
    if not isinstance(encoded, Encoded):
        raise TypeError(
            f"{method} must return itm.batch.Encoded, such as Encoded(vector=x), got a "
            f"{type(encoded).__name__}"
        )


def same_image(pairs: Pairs) -> Tensor:
    """Mark the pairs whose caption describes the same image, copies included, (I, C) bool.

    An image may fill several rows of a batch; rows with equal `images.index` are the same image.
    """
    index = pairs.images.index
    return index[:, None] == index[pairs.captions.image][None, :]


Chunk = tuple[Encoded, Tensor]  # encodings of n images or captions, and their n rows in the split


def map_encoded(encoded: Encoded, function: Callable[[Tensor], Tensor]) -> Encoded:
    """Apply a function to every tensor of an `Encoded`."""
    aux = encoded.aux and {name: function(value) for name, value in encoded.aux.items()}
    vector, parts, mask = (None if x is None else function(x) for x in encoded[:3])
    return Encoded(vector, parts, mask, aux)


def to_device(encoded: Encoded, device: torch.device | str) -> Encoded:
    """Send an `Encoded` to a device without waiting; `aux["lengths"]` stays on the host.

    A copy to the host is waited for: torch would return it before its numbers have arrived.
    """
    lengths = (encoded.aux or {}).get("lengths")
    arrives_later = torch.device(device).type != "cpu"
    return map_encoded(
        encoded, lambda x: x if x is lengths else x.to(device, non_blocking=arrives_later)
    )


def take(encoded: Encoded, rows: slice | Tensor) -> Encoded:
    """Select rows of an `Encoded`."""
    return map_encoded(encoded, lambda x: x[rows])


def concatenate(encodings: Sequence[Encoded]) -> Encoded:
    """Join several `Encoded` into one; all that is kept per part is padded to the longest."""
    first = encodings[0]
    vector, parts, mask = (
        None if getattr(first, name) is None else _join([getattr(e, name) for e in encodings])
        for name in ("vector", "parts", "mask")
    )
    aux = first.aux and {k: _join([e.aux[k] for e in encodings if e.aux]) for k in first.aux}
    return Encoded(vector, parts, mask, aux)


def _join(tensors: Sequence[Tensor]) -> Tensor:
    """Join tensors along the rows, filled with zeros to the same size in other dimensions."""
    largest = [max(sizes) for sizes in zip(*(x.shape[1:] for x in tensors), strict=True)]

    def fill(x: Tensor) -> Tensor:
        missing = [most - size for most, size in zip(largest, x.shape[1:], strict=True)]
        if not any(missing):
            return x
        return pad(x, [n for size in reversed(missing) for n in (0, size)])

    return torch.cat([fill(x) for x in tensors])


def parts_of(encoded: Encoded) -> int:
    """Count the parts (regions or words) per row, padding included; 1 for a global vector."""
    return 1 if encoded.parts is None else encoded.parts.shape[1]
