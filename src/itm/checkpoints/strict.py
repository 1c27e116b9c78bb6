"""Loading weights: every tensor must be there, known, of the right shape and, on demand, finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from itm.matcher.matcher import Matcher


def load_strictly(matcher: Matcher, tensors: dict[str, Tensor], source: str) -> None:
    """Load weights into a matcher; those of its loss stay as they are.

    Args:
        matcher: takes the weights.
        tensors: name -> tensor, exactly those of the matcher.
        source: file that the weights come from, for the message.

    Raises:
        ValueError: with the names that are missing, unexpected, of another shape, or not tensors.
    """
    tensors = check_fit(matcher, tensors, source)
    matcher.load_state_dict(tensors, strict=matcher.loss is None)


def check_fit(matcher: Matcher, tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Compare names and shapes of weights with a matcher's, which may be on the meta device.

    Returns:
        The weights, with the counts of batches that PyTorch before 0.4.1 did not keep.

    Raises:
        ValueError: as in `load_strictly`.
    """
    own = {k: v for k, v in matcher.state_dict().items() if not k.startswith("loss.")}
    counts = {k: torch.tensor(0, device="cpu") for k in own if k.endswith("num_batches_tracked")}
    tensors = {**counts, **tensors}
    problems = [f"missing {k} {tuple(own[k].shape)}" for k in own if k not in tensors]
    problems += [f"unexpected {k} {_shape(tensors[k])}" for k in tensors if k not in own]
    problems += [
        f"{k} is {_shape(tensors[k])}, expected {tuple(own[k].shape)}"
        for k in own
        if k in tensors and _shape(own[k]) != _shape(tensors[k])
    ]
    if problems:
        raise ValueError(
            f"{source}: weights do not fit {type(matcher).__name__}:\n  " + "\n  ".join(problems)
        )
    return tensors


def check_finite(tensors: dict[str, Tensor], source: str) -> None:
    """Raise ValueError with the names of tensors that hold NaN or infinity.

    For weights to train or convert; a matcher's own checkpoint may hold them, such as a mask.
    """
    broken = [name for name, x in tensors.items() if not x.isfinite().all()]
    if broken:
        raise ValueError(f"{source}: {', '.join(broken)} holds NaN or infinity")


def _shape(value: Any) -> str:
    """The shape of a tensor, or what else a damaged file holds in its place."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"
