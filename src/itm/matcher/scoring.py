"""Encode and score plain data outside training: `Matcher.pairs`, `score`, `embed`, `encode`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Literal, overload
from weakref import WeakKeyDictionary

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from itm.batch import Captions, Chunk, Images, Pairs, check_encoded, map_encoded
from itm.data.layout import Features
from itm.data.padding import Arrays
from itm.layers.functional import global_vector
from itm.matcher.blocks import similarity_matrix
from itm.matcher.inputs import (
    caption_batches,
    check_captions,
    check_features,
    check_images,
    image_batches,
    make_pairs,
)
from itm.matcher.protocol import MatcherLike
from itm.utils.devices import precision_context


def pairs(
    matcher: MatcherLike,
    features: Arrays,
    captions: Sequence[str] | np.ndarray,
    image: Sequence[int] | None = None,
    ids: Sequence[int] | None = None,
    labels: np.ndarray | None = None,
    concepts: np.ndarray | None = None,
    relevance: np.ndarray | None = None,
) -> Pairs:
    """Make a batch from plain data, tokenised with the matcher's vocabulary.

    Args:
        matcher: provides vocabulary and device.
        features: (I, R, F) array, or a list of (R_i, F); (I, F) for a matcher that reads one vector
            per image.
        captions: C sentences, or a (C, F) array of sentence vectors for `text=vectors`.
        image: row of each caption's image; required if I != C, default 0 to C-1.
        ids: identity of each image, equal for copies of an image; default 0 to I-1.
        labels: (C, K) labels.
        concepts: (C, K) concept labels; by default found among the captions' words if the matcher
            has concepts.
        relevance: (I, C) semantic relevance for `loss=sam`.

    Raises:
        ValueError: counts, widths or types do not match each other or the matcher.
    """
    batch = make_pairs(matcher, features, captions, image, ids, labels, concepts, relevance)
    check_images(batch.images, matcher)
    return sent(matcher, batch)


def score(
    matcher: MatcherLike,
    features: Features,
    captions: Sequence[str] | np.ndarray,
    batch_size: int = 128,
    out: np.ndarray | None = None,
    precision: str | None = None,
) -> np.ndarray:
    """Score every image with every caption, in eval mode.

    Args:
        matcher: in any mode, which is restored afterwards.
        features: (N, R, F) array or memory map, or a list of (R_i, F); (N, F) for a matcher that
            reads one vector per image.
        captions: M sentences, or a (M, F) array of sentence vectors for `text=vectors`.
        batch_size: number of images or captions encoded at once.
        out: (N, M) float32 array or memory map to fill; None = a new array.
        precision: of the products, "32-true", "bf16-mixed" or "16-mixed"; None = that of the
            surrounding autocast, without one float32. Norms, softmax and sums stay in float32.

    Returns:
        (N, M) float32.

    Raises:
        ValueError: the matcher cannot read these features or captions, `out` has another shape or
            type, or the precision is unknown.
    """
    check_features(features, matcher)
    check_captions(captions)
    shape = (len(features), len(captions))
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32:
        raise ValueError(
            f"out must be float32 of shape {shape}, a row per image and a column per caption; "
            f"got {out.dtype} of shape {out.shape}"
        )
    words = caption_batches(matcher, captions, batch_size)  # first, since this checks them
    images = encode(matcher, image_batches(features, batch_size), precision)
    return score_encoded(matcher, images, encode(matcher, words, precision), out, precision)


@overload
def embed(
    matcher: MatcherLike,
    features: Features | None = None,
    captions: Sequence[str] | np.ndarray | None = None,
    batch_size: int = 128,
    uncertainty: Literal[False] = False,
    precision: str | None = None,
) -> np.ndarray: ...
@overload
def embed(
    matcher: MatcherLike,
    features: Features | None = None,
    captions: Sequence[str] | np.ndarray | None = None,
    batch_size: int = 128,
    *,
    uncertainty: Literal[True],
    precision: str | None = None,
) -> tuple[np.ndarray, np.ndarray]: ...
def embed(
    matcher: MatcherLike,
    features: Features | None = None,
    captions: Sequence[str] | np.ndarray | None = None,
    batch_size: int = 128,
    uncertainty: bool = False,
    precision: str | None = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Return global vectors (N, D) float32 of images or of captions, in eval mode.

    Args:
        matcher: in any mode, which is restored afterwards.
        features: images as in `score`.
        captions: captions as in `score`, instead of `features`.
        batch_size: number of images or captions encoded at once.
        uncertainty: also return how uncertain each item is, (N,) float32, see
            `itm.matcher.Matcher.uncertainty`.
        precision: as in `score`.

    Returns:
        The vectors, or a pair of vectors and uncertainties.

    Raises:
        ValueError: both or neither of features and captions are given; uncertainties of a matcher
            without them; or as for `score`.
    """
    if (features is None) == (captions is None):
        raise ValueError("embed takes either features=... or captions=...")
    if features is not None:
        check_features(features, matcher)
        images = image_batches(features, batch_size)
        chunks, size = encode(matcher, images, precision), len(features)
    else:
        assert captions is not None
        chunks = encode(matcher, caption_batches(matcher, captions, batch_size), precision)
        size = len(captions)
    vectors = _by_row([(global_vector(encoded), rows) for encoded, rows in chunks], size)
    if not uncertainty:
        return vectors
    return vectors, _by_row(
        [(matcher.uncertainty(encoded), rows) for encoded, rows in chunks], size
    )


def _by_row(chunks: Sequence[tuple[Tensor, Tensor]], size: int) -> np.ndarray:
    """Put the rows of chunks in order, as float32."""
    out = np.empty((size, *(chunks[0][0].shape[1:] if chunks else (0,))), np.float32)
    for values, rows in chunks:
        out[rows.numpy()] = values.float().cpu().numpy()
    return out


@torch.no_grad()
def encode(
    matcher: MatcherLike, batches: Iterable[Images | Captions], precision: str | None = None
) -> list[Chunk]:
    """Encode batches in eval mode, without gradients.

    Args:
        matcher: in any mode, which is restored afterwards.
        batches: images and / or captions on any device, such as from
            `itm.matcher.inputs.image_batches` and `caption_batches`.
        precision: as in `score`.

    Returns:
        The encodings of each batch and their rows, `batch.index`; on the host.

    Raises:
        TypeError: an encoder returns something else than `Encoded`.
        ValueError: images have another width or number of regions than the matcher expects.
    """
    chunks = []
    with evaluating(matcher), precision_context(matcher.device, precision):
        for batch in batches:
            if isinstance(batch, Images):
                check_images(batch, matcher)
            batch = sent(matcher, batch)
            image = isinstance(batch, Images)
            encoded = matcher.encode_images(batch) if image else matcher.encode_captions(batch)
            check_encoded(encoded, "encode_images" if image else "encode_captions")
            chunks.append((map_encoded(encoded, lambda x: x.cpu()), batch.index.cpu()))
    return chunks


@torch.no_grad()
def score_encoded(
    matcher: MatcherLike,
    images: Iterable[Chunk],
    captions: Sequence[Chunk],
    out: np.ndarray | None = None,
    precision: str | None = None,
) -> np.ndarray:
    """Score encoded images with encoded captions, block by block, in eval mode.

    Args:
        matcher: in any mode, which is restored afterwards.
        images: chunks that `encode` returned for images; read once.
        captions: chunks that `encode` returned for captions.
        out: (N, M) float32 array or memory map to fill; None = a new array up to the largest rows.
        precision: as in `score`.

    Returns:
        (N, M) float32, row = image, column = caption.

    Raises:
        ValueError: without `out`, some rows are missing or come twice.
    """
    if matcher.dtype == torch.float64:  # encodings of an index are float32
        images, captions = (
            [(map_encoded(encoded, _double), rows) for encoded, rows in side]
            for side in (images, captions)
        )
    # Eval mode, since SAF's similarity has a batch norm.
    with evaluating(matcher), precision_context(matcher.device, precision):
        return similarity_matrix(
            matcher.similarity,
            images,
            captions,
            matcher.pair_floats,
            matcher.device,
            matcher.memory_budget,
            out,
        )


def sent(matcher: MatcherLike, batch: Any) -> Any:
    """Send a batch to the device of a matcher, as float64 if it was trained in that.

    Raises:
        ValueError: the matcher's weights are in half precision.
    """
    if matcher.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"the weights of this matcher are {str(matcher.dtype).removeprefix('torch.')}, but its "
            "norms and softmax need float32: convert it with .float(), and give "
            "precision='bf16-mixed' or '16-mixed' for products in half precision"
        )
    batch = matcher.transfer_batch_to_device(batch, matcher.device, 0)
    if matcher.dtype == torch.float64:
        batch = apply_to_collection(batch, Tensor, _double)
    return batch


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


_LOCK = Lock()
# Per matcher: how many threads and nested calls score with it, and the modes to restore.
_INSIDE: WeakKeyDictionary[MatcherLike, tuple[int, list[tuple[nn.Module, bool]]]] = (
    WeakKeyDictionary()
)


@contextmanager
def evaluating(matcher: MatcherLike) -> Iterator[None]:
    """Switch to eval mode, and restore the previous mode of every module afterwards.

    If several threads score with one matcher, the first one switches and the last one restores.
    """
    with _LOCK:
        count, modes = _INSIDE.get(matcher, (0, []))
        if not count:  # some modules may be in eval mode already, to stay frozen
            modes = [(module, module.training) for _, module in matcher.named_modules()]
            matcher.eval()
        _INSIDE[matcher] = count + 1, modes
    try:
        yield
    finally:
        with _LOCK:
            count, modes = _INSIDE.pop(matcher)
            if count > 1:
                _INSIDE[matcher] = count - 1, modes
            else:
                for module, training in modes:
                    module.training = training
