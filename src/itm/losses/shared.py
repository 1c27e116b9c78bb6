"""Helpers of the losses: matching pairs, reductions, optimiser groups, checks of arguments."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from itm.utils.checks import check_least

REDUCTIONS = ("sum", "mean")


class Anchors(NamedTuple):
    """The P matching pairs of an (I, C) score matrix.

    Attributes:
        image: (P,) int64, row of each pair.
        caption: (P,) int64, column of each pair.
        positive: (I, C) bool, the same pairs as a mask.
    """

    image: Tensor
    caption: Tensor
    positive: Tensor


def anchors(scores: Tensor, positive: Tensor | None = None) -> Anchors:
    """Find the matching pairs that a loss is summed over.

    Args:
        scores: (I, C).
        positive: (C,) int64, row of each caption's image; or (I, C) bool mask of matching pairs,
            which waits for the device to count the pairs; None = the diagonal.

    Raises:
        ValueError: shapes do not match.
    """
    mask = positive_mask(scores, positive)
    if positive is not None and positive.dtype == torch.bool:
        image, caption = mask.nonzero(as_tuple=True)
        return Anchors(image, caption, mask)
    caption = torch.arange(scores.shape[1], device=scores.device)
    return Anchors(caption if positive is None else positive, caption, mask)


def positive_mask(scores: Tensor, positive: Tensor | None = None) -> Tensor:
    """Mark the matching pairs, (I, C) bool; the arguments are those of `anchors`.

    Raises:
        TypeError: the scores are not a tensor of floats.
        ValueError: shapes do not match.
    """
    check_floats(scores)
    if scores.ndim != 2:
        raise ValueError(
            f"scores must be a matrix (images, captions), got shape {tuple(scores.shape)}"
        )
    rows, columns = scores.shape
    if positive is None:
        if rows != columns:
            raise ValueError(
                f"scores {rows} x {columns} are not square: pass positive=, the row of each "
                "caption's image or the (I, C) mask of matching pairs"
            )
        positive = torch.arange(columns, device=scores.device)
    if positive.shape == scores.shape and positive.dtype == torch.bool:
        return positive
    if positive.shape == (columns,) and positive.dtype == torch.int64:
        # On the host only: on a device this check would make every step wait.
        if positive.device.type == "cpu" and ((positive < 0) | (positive >= rows)).any():
            raise ValueError(
                f"positive holds rows from {int(positive.min())} to {int(positive.max())}, but "
                f"scores {rows} x {columns} have the rows 0 to {rows - 1}"
            )
        return torch.arange(rows, device=scores.device)[:, None] == positive
    raise ValueError(
        f"positive must be ({columns},) int64 or ({rows}, {columns}) bool for scores {rows} x "
        f"{columns}, got {tuple(positive.shape)} {positive.dtype}"
    )


def excluded_pairs(matching: Tensor, ignore: Tensor | None) -> Tensor:
    """Mark the pairs that cannot be negatives, (I, C) bool: matching and ignored ones.

    Raises:
        ValueError: `ignore` has another shape or type; a smaller one would be repeated.
    """
    if ignore is None:
        return matching
    if ignore.shape != matching.shape or ignore.dtype != torch.bool:
        raise ValueError(
            f"ignore must be {tuple(matching.shape)} bool, True = no negative, got "
            f"{tuple(ignore.shape)} {ignore.dtype}"
        )
    return matching | ignore


def reduced(total: Tensor, terms: int, reduction: str) -> Tensor:
    """Return the sum ("sum", which published learning rates assume) or the mean over `terms`."""
    return total if reduction == "sum" else total / max(terms, 1)


def without_decay(*params: nn.Parameter) -> list[dict[str, Any]]:
    """Return an optimiser group in which weight decay does not pull scales and shifts towards 0."""
    return [{"name": "loss", "params": list(params), "weight_decay": 0.0}]


def check_floats(scores: Any) -> None:
    """Check the type of scores; some losses would compute with others, and torch refuse them.

    Raises:
        TypeError: they are not a tensor of floats.
    """
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        kind = scores.dtype if hasattr(scores, "dtype") else type(scores).__name__
        raise TypeError(
            f"scores must be a tensor of floats, which have gradients, got {kind}: "
            "torch.as_tensor(scores).float()"
        )


def check_relevance(relevance: Tensor, scores: Tensor) -> None:
    """Check that there is a relevance for each score, and on the host that none is NaN.

    On a device, looking for NaN would wait; `Loss.check_batch` does it before a batch is sent.

    Raises:
        ValueError: the shapes differ, or the relevance contains NaN.
    """
    if relevance.shape != scores.shape:
        raise ValueError(
            f"relevance must hold one number per image (row) and caption (column), "
            f"{tuple(scores.shape)}, got {tuple(relevance.shape)}"
        )
    if on_host(relevance):
        check_numbers(relevance)


def check_temperature(temperature: float) -> None:
    """Check that a temperature can divide scores or relevance.

    Raises:
        ValueError: it is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")


def check_weights(weights: Mapping[str, float]) -> None:
    """Check the weights of loss terms; a term with a negative weight would be learnt backwards.

    Raises:
        ValueError: a weight is negative or NaN.
    """
    check_least(weights, dict.fromkeys(weights, 0))


def check_numbers(relevance: Tensor) -> None:
    """Check that no relevance is NaN.

    Raises:
        ValueError: the relevance contains NaN.
    """
    if relevance.isnan().any():
        missing = int(relevance.isnan().sum())
        raise ValueError(f"the relevance of {missing} of {relevance.numel()} pairs is NaN")


def on_host(x: Tensor) -> bool:
    """Tell whether the values of a tensor can be read without waiting for a device."""
    return x.device.type == "cpu"
