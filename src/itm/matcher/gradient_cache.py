"""Gradient caching: train on batches whose encoder graphs would not fit into memory.

Gao, Zhang, Han, Callan: Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
RepL4NLP 2021. A loss compares all pairs of a batch, but an encoder reads each row alone. So the
rows are encoded chunk by chunk without a graph, and the loss gives the gradient of every encoding.
Then each chunk is encoded again with a graph, which receives its share of the gradient and is
freed. `torch.utils.checkpoint` implements these two passes for one chunk; the second pass uses the
random state (dropout) and the precision of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from itm.batch import Captions, Encoded, Images, Pairs, check_encoded, concatenate
from itm.matcher.protocol import MatcherLike


def encode_in_chunks(matcher: MatcherLike, pairs: Pairs, size: int) -> tuple[Encoded, Encoded]:
    """Encode both sides of a batch with the graphs of only `size` rows in memory at a time.

    The gradients equal those of the whole batch; each encoder runs twice.

    Raises:
        ValueError: `size` is below 1, or the matcher's encodings depend on other rows.
    """
    if size < 1:
        raise ValueError(f"chunk_size must be at least 1, or null for whole batches, got {size}")
    _check_rows_alone(matcher)
    encode_images, encode_captions = matcher.training_encoders()
    images = _encode(encode_images, image_chunks(pairs.images, size), "encode_images")
    captions = _encode(encode_captions, caption_chunks(pairs.captions, size), "encode_captions")
    return images, captions


def _encode(encode: Callable[[Any], Encoded], chunks: Iterator[Any], method: str) -> Encoded:
    encoded = [checkpoint(encode, chunk, use_reentrant=False) for chunk in chunks]
    check_encoded(encoded[0], method)
    return concatenate(encoded)


def _check_rows_alone(matcher: MatcherLike) -> None:
    for name, module in matcher.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise ValueError(
                f"chunk_size encodes a batch in chunks, but {type(matcher).__name__} has a batch "
                f"norm ({name}) that needs the statistics of the whole batch: leave chunk_size out "
                "(SCAN, CASC and other matchers without batch norm can use it)"
            )


def image_chunks(images: Images, size: int) -> Iterator[Images]:
    """Yield the images in order, `size` at a time."""
    for chunk in zip(*(x.split(size) for x in images), strict=True):
        yield Images(*chunk)


def caption_chunks(captions: Captions, size: int) -> Iterator[Captions]:
    """Yield the captions in order, `size` at a time, each chunk padded to its longest caption."""
    for start in range(0, len(captions.lengths), size):
        rows = slice(start, start + size)
        lengths = captions.lengths[rows]
        tensors = (None if x is None else x[rows] for x in captions[2:])
        yield Captions(captions.tokens[rows, : max(lengths)], lengths, *tensors)  # type: ignore[arg-type]
