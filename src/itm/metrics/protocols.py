"""Define evaluation protocols: the split size of published numbers, and the folds."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from itm.utils.checks import check_choice, check_least


class Protocol(NamedTuple):
    """The split size and the folds that a metric is measured on.

    Attributes:
        images: number of images of the split, None = any.
        captions: number of captions of the split, None = any.
        folds: number of consecutive blocks of images; each is scored separately and the results
            are averaged.

    Examples:
        >>> from itm.metrics import PROTOCOLS
        >>> PROTOCOLS["coco_1k"].folds
        5
    """

    images: int | None = None
    captions: int | None = None
    folds: int = 1


PROTOCOLS = {
    "full": Protocol(),
    "f30k_1k": Protocol(1000, 5000),
    "coco_1k": Protocol(5000, 25000, folds=5),
    "coco_5k": Protocol(5000, 25000),
}

Rows = slice | np.ndarray
Fold = Callable[[slice, Rows, np.ndarray], dict[str, float]]


def find_protocol(protocol: str | Protocol) -> Protocol:
    """Look up a protocol by name; return a `Protocol` unchanged.

    Raises:
        ValueError: the name is unknown, or the protocol has no folds.
    """
    if isinstance(protocol, Protocol):
        check_least({"folds": protocol.folds}, {"folds": 1})
        return protocol
    check_choice("protocol", protocol, PROTOCOLS)
    return PROTOCOLS[protocol]


def is_defined(protocol: str | Protocol, images: int, captions: int) -> bool:
    """Tell whether a protocol is defined on a split of this size."""
    wanted = find_protocol(protocol)
    return wanted.images in (None, images) and wanted.captions in (None, captions)


def check_size(protocol: str | Protocol, images: int, captions: int) -> Protocol:
    """Return the protocol if it is defined on a split of this size.

    Raises:
        ValueError: the protocol is unknown, or defined on another number of images or captions.
    """
    wanted = find_protocol(protocol)
    if not is_defined(wanted, images, captions):
        count = ["any number of" if x is None else x for x in (wanted.images, wanted.captions)]
        raise ValueError(
            f"protocol {protocol} is defined on {count[0]} images and {count[1]} "
            f"captions, but the split has {images} and {captions}: "
            "use protocol=full, or the split that the protocol is defined on"
        )
    return wanted


def average_folds(
    measure: Fold, images: int, caption_image: np.ndarray, protocol: str | Protocol
) -> dict[str, float]:
    """Average metrics over the folds of a protocol.

    Folds are consecutive blocks of images; captions go with their image.

    Args:
        measure: (image rows, caption rows, row of each caption's image inside the fold) -> values.
        images: N.
        caption_image: (M,) row of each caption's image.
        protocol: name or `Protocol`.

    Raises:
        ValueError: the protocol is unknown, defined on another number of images or captions, or
            its folds do not divide the images equally.
    """
    wanted = check_size(protocol, images, len(caption_image))
    if wanted.folds == 1:
        return measure(slice(None), slice(None), caption_image)
    if images % wanted.folds:
        raise ValueError(f"{images} images cannot be divided into {wanted.folds} equal folds")
    size, results = images // wanted.folds, []
    for start in range(0, images, size):
        inside = np.flatnonzero((caption_image >= start) & (caption_image < start + size))
        results.append(measure(slice(start, start + size), inside, caption_image[inside] - start))
    return {key: float(np.mean([result[key] for result in results])) for key in results[0]}
