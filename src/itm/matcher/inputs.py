"""Turn plain arrays and sentences into `Images`, `Captions` and `Pairs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from itm.batch import Captions, Images, Pairs
from itm.data.layout import Features, ImageView, Split
from itm.data.origin import other_features
from itm.data.padding import (
    Arrays,
    check_regions,
    make_captions,
    make_images,
    optional_tensor,
    take_captions,
)
from itm.layers.text import as_text_encoder
from itm.matcher.protocol import MatcherLike
from itm.matcher.waiting import check_built
from itm.utils.rows import check_rows, to_array

FEATURES = "an array (images, regions, width), a list of arrays (regions, width), or split.view()"
CAPTIONS = "a list of sentences, such as split.captions, or an array (captions, width) of vectors"


def tokenise(
    matcher: MatcherLike,
    captions: Sequence[str] | np.ndarray,
    index: Sequence[int],
    image: Sequence[int],
    labels: Any = None,
    concepts: Any = None,
) -> Captions:
    """Make `Captions` from sentences and the matcher's vocabulary, or from sentence vectors (C, F).

    Raises:
        ValueError: the matcher has no vocabulary, or a larger one than it was built for; captions
            are not a list of strings; or the text encoder reads words but got sentence vectors.
    """
    check_built(matcher)
    check_captions(captions)
    if isinstance(captions, Tensor):
        captions = to_array(captions)
    if isinstance(captions, np.ndarray) and captions.dtype.kind in "fiu":
        _check_vectors(matcher, captions)
        vectors = torch.from_numpy(to_array(captions).astype(np.float32))
        tokens: list[list[int]] = [[0] for _ in captions]
        return make_captions(
            tokens, index, image, optional_tensor(labels), optional_tensor(concepts), vectors
        )
    if matcher.vocab is None:
        if as_text_encoder(matcher.text).needs_vectors:
            raise ValueError(
                "this matcher reads sentence vectors: pass captions as a (C, F) array of numbers"
            )
        raise ValueError(
            "this matcher has no vocabulary, so it cannot read sentences: load it from a folder or "
            "checkpoint with a vocabulary, or set matcher.vocab = Vocabulary.load('vocab.json')"
        )
    size = matcher.hparams.get("vocab_size")
    if size is not None and len(matcher.vocab) > size:
        raise ValueError(
            f"the vocabulary has {len(matcher.vocab)} words, but {type(matcher).__name__} has "
            f"vectors for only {size}: use the vocabulary that it was trained with"
        )
    for row, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ValueError(f"caption {row} must be a string, got {type(caption).__name__}")
    tokens = [matcher.vocab.encode(caption) for caption in captions]
    if concepts is None and matcher.concepts is not None:
        concepts = matcher.concepts.label([matcher.vocab.as_read(caption) for caption in captions])
    return make_captions(tokens, index, image, optional_tensor(labels), optional_tensor(concepts))


def check_captions(captions: Any) -> None:
    """Check that captions are a list or an array, before they are counted.

    Raises:
        ValueError: one string, a generator, a set, a dictionary or a table.
    """
    check_rows("captions", captions, CAPTIONS)


def _check_vectors(matcher: MatcherLike, vectors: np.ndarray) -> None:
    text = as_text_encoder(matcher.text)
    if text.needs_words:
        raise ValueError(
            f"captions came as an array {vectors.shape} of numbers, but {type(matcher).__name__}'s "
            f"text encoder {type(text).__name__} reads words: pass the sentences themselves, or "
            "build the matcher with text=vectors (two_branch_embedding, two_branch_similarity)"
        )
    if vectors.ndim != 2:
        raise ValueError(f"sentence vectors must be (C, F), got {vectors.shape}")
    if not np.isfinite(vectors).all():
        row = int(np.isfinite(vectors).all(1).argmin())
        raise ValueError(f"the sentence vector {row} holds NaN or infinite values")


def make_pairs(
    matcher: MatcherLike,
    features: Arrays,
    captions: Sequence[str] | np.ndarray,
    image: Sequence[int] | None,
    ids: Sequence[int] | None,
    labels: Any,
    concepts: Any,
    relevance: Any,
) -> Pairs:
    """Build the batch of `Matcher.pairs` on the host.

    Raises:
        ValueError: the counts differ and `image` is missing or does not match them, `image` or
            `ids` hold no whole numbers, labels, concepts or relevance have another number of rows,
            or features are not finite.
    """
    check_features(features, matcher)
    check_captions(captions)
    n, m = len(features), len(captions)
    if image is None and n != m:
        raise ValueError(
            f"got {n} images and {m} captions: pass image=[row of each caption's image, ...]"
        )
    rows = list(range(m)) if image is None else _whole_numbers("image", image)
    if len(rows) != m or not all(0 <= row < n for row in rows):
        raise ValueError(f"image must hold {m} rows from 0 to {n - 1}, one per caption")
    index = list(range(n)) if ids is None else _whole_numbers("ids", ids)
    if len(index) != n:
        raise ValueError(f"ids must hold {n} numbers, one per image; got {len(index)}")
    sizes = {
        "labels": (labels, (m,)),
        "concepts": (concepts, (m,)),
        "relevance": (relevance, (n, m)),
    }
    for name, (given, shape) in sizes.items():
        if given is not None and np.shape(given)[: len(shape)] != shape:
            raise ValueError(
                f"{name} of {n} images and {m} captions must begin with {shape}, got the shape "
                f"{np.shape(given)}"
            )
    for name, given in (("labels", labels), ("concepts", concepts)):
        if given is not None:
            _check_multi_hot(name, to_array(given))
    images = make_images(features, index)
    check_regions(images)
    return Pairs(
        images,
        tokenise(matcher, captions, list(range(m)), rows, labels, concepts),
        optional_tensor(relevance),
    )


def _check_multi_hot(name: str, values: np.ndarray) -> None:
    """Check that there is a number from 0 to 1 for each caption and label.

    Raises:
        ValueError: they are not a matrix of numbers from 0 to 1.
    """
    if values.ndim != 2 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"{name} must be a matrix (captions, number of {name}), 1 where a caption has one and "
            f"0 elsewhere, got other values or the shape {values.shape}"
        )


def _whole_numbers(name: str, values: Any) -> list[int]:
    """Return a list of ints.

    Raises:
        ValueError: the values are not a list of whole numbers.
    """
    check_rows(name, values, "a list of whole numbers")
    found = to_array(values)
    if found.size and (found.ndim != 1 or found.dtype.kind not in "iu"):
        raise ValueError(
            f"{name} must be a list of whole numbers, got {found.dtype} of shape {found.shape}"
        )
    return [int(x) for x in found]


def batch_starts(count: int, size: int) -> range:
    """Return the first row of each batch of `size` rows.

    Raises:
        ValueError: `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"batch_size={size} must be at least 1")
    return range(0, count, size)


def image_batches(features: Features, size: int) -> Iterator[Images]:
    """Iterate over all images in order, `size` at a time; a memory map is read block by block."""
    for start in batch_starts(len(features), size):
        block = features[start : start + size]
        images = make_images(block, range(start, start + len(block)))
        if not isinstance(
            features, ImageView
        ):  # an ImageView checks its values itself and names the file
            check_regions(images)
        yield images


def check_features(features: Features, matcher: MatcherLike) -> None:
    """Check that plain features have the shape that a matcher reads, before they are padded.

    A matcher that needs regions would read the regions of a single image, (R, F), as R images.

    Raises:
        ValueError: the features are not a list or an array. Or the matcher needs regions, and got
            one vector for each image or another feature width.
    """
    check_built(matcher)
    if isinstance(features, ImageView):
        _compare_settings(features.split, matcher)
    else:
        check_rows("features", features, FEATURES)
    if not matcher.needs_regions:
        return
    if isinstance(features, ImageView):
        check_split(features.split, matcher)
        return
    is_array = hasattr(features, "ndim")
    shapes = [np.shape(features)] if is_array else [np.shape(x) for x in features]
    vectors = [shape for shape in shapes if len(shape) == 1 + is_array]
    if not vectors:
        return
    _check_width(vectors[0][-1], matcher)
    given = f"features {vectors[0]} hold" if is_array else f"an image of shape {vectors[0]} holds"
    raise ValueError(
        f"{given} one vector per image, but {type(matcher).__name__} reads regions, (images, "
        "regions, width): one image of X is X[:1], not X[0]; a vector becomes a region by "
        + ("X[:, None]" if is_array else "x[None]")
    )


def _compare_settings(split: Split, matcher: MatcherLike) -> None:
    """Warn of features that `itm.extract` made with other settings than those of the training."""
    if others := other_features(matcher.trained_on, split):
        rank_zero_warn(
            f"the features of {split.folder} were extracted with {', '.join(others)} in the "
            f"training of {type(matcher).__name__}: extract them with the settings of the training"
        )


def check_split(split: Split, matcher: MatcherLike) -> None:
    """Check that the features of a split are regions if the matcher needs them.

    Raises:
        ValueError: there is one vector for each image.
    """
    if matcher.needs_regions and split.features.ndim == 2:
        raise ValueError(
            f"{split.name}_ims.npy of {split.folder} is {split.features.shape}, one vector per "
            f"image, but {type(matcher).__name__} reads regions, (images, regions, width): use "
            "model=vsepp or a two-branch network, or save it with one region per image, "
            "x[:, None]"
        )


def check_images(images: Images, matcher: MatcherLike) -> None:
    """Check that the images have the feature width and number of regions of a matcher.

    Raises:
        ValueError: the width differs from `img_dim`, or the number of regions from `num_regions`;
            or the mask does not mark the regions.
    """
    check_built(matcher)
    shape = tuple(images.regions.shape)
    if images.mask is not None and tuple(images.mask.shape) != shape[:2]:
        resident = shape[1:2] == (0,)
        raise ValueError(
            f"a batch must hold regions (I, R, F) and a mask (I, R), got {shape} and "
            f"{tuple(images.mask.shape)}"
            + (": only a trainer looks up the features of data.resident" if resident else "")
        )
    _check_width(images.regions.shape[-1], matcher)
    if matcher.num_regions is None or not len(images.mask):
        return
    most = images.mask.shape[1]
    # Reading a mask on a device would wait; such batches have been checked on the host.
    fewest = int(images.mask.sum(1).min()) if images.mask.device.type == "cpu" else most
    if not fewest == most == matcher.num_regions:
        raise ValueError(
            f"{type(matcher).__name__} was built for exactly {matcher.num_regions} regions in "
            "every image (its batch norm has a channel for each position), got "
            f"{fewest} to {most}: give all images the same number of regions, and build the "
            "matcher with that num_regions"
        )


def _check_width(width: int, matcher: MatcherLike) -> None:
    known = matcher.hparams.get("img_dim", width)
    if width != known:
        raise ValueError(
            f"the features are {width} wide, but {type(matcher).__name__} reads {known}: give it "
            f"the features it was trained on, or build it with img_dim={width}"
        )


def check_batch(size: int, matcher: MatcherLike) -> None:
    """Check that a training batch is large enough for the batch norms of a matcher, if any.

    Raises:
        ValueError: there is a batch norm, and the batch holds one image or caption only.
    """
    if not matcher.training or size > 1:
        return
    if any(isinstance(module, _BatchNorm) for _, module in matcher.named_modules()):
        raise ValueError(
            f"{type(matcher).__name__} cannot train on a batch of one, because its batch norms "
            "need at least two: use data.drop_last=true or another data.batch_size"
        )


def caption_batches(
    matcher: MatcherLike, captions: Sequence[str] | np.ndarray, size: int, concepts: Any = None
) -> Iterator[Captions]:
    """Return an iterator over all captions sorted by length, `size` at a time: less padding.

    The captions are checked at once, before a caller encodes images.

    Raises:
        ValueError: as for `tokenise`, or `size` is below 1.
    """
    check_captions(captions)
    rows = range(len(captions))
    every = tokenise(matcher, captions, rows, [0] * len(captions), concepts=concepts)
    order = np.argsort(every.lengths, kind="stable")
    starts = batch_starts(len(order), size)
    return (take_captions(every, order[start : start + size]) for start in starts)
