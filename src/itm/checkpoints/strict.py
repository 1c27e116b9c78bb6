"""Load weights strictly: no tensor may be missing, unknown, of another form, or not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from itm.matcher.matcher import Matcher


def load_strictly(matcher: Matcher, tensors: dict[str, Tensor], source: str) -> None:
    """Load weights into a matcher; the weights of its loss are left unchanged.

    Args:
        matcher: receives the weights.
        tensors: name -> tensor, exactly those of the matcher.
        source: file that the weights come from, for the message.

    Raises:
        ValueError: names are missing or unexpected, or values have another shape, are integers in
            place of real numbers, or are not tensors; the message lists them.
    """
    tensors = check_fit(matcher, tensors, source)
    matcher.load_state_dict(tensors, strict=matcher.loss is None)


def check_fit(matcher: Matcher, tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Compare names, shapes and kinds of weights with those of a matcher, maybe on the meta device.

    Returns:
        The weights, completed by the counts of batches that PyTorch before 0.4.1 did not save.

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
    problems += [  # such as the integers of a quantised model, whose scales are elsewhere
        f"{k} holds {tensors[k].dtype}, expected {own[k].dtype}"
        for k in own
        if isinstance(tensors.get(k), Tensor)
        and own[k].is_floating_point()
        and not tensors[k].is_floating_point()
    ]
    if problems:
        raise ValueError(
            f"{source}: weights do not fit {type(matcher).__name__}:\n  " + "\n  ".join(problems)
        )
    return tensors


def check_finite(tensors: dict[str, Tensor], source: str) -> None:
    """Raise ValueError with the names of tensors that hold NaN or infinity.

    For weights to train from or to convert; a checkpoint of itm may hold infinity, as in a mask.
    """
    broken = [name for name, x in tensors.items() if not x.isfinite().all()]
    if broken:
        raise ValueError(f"{source}: {', '.join(broken)} holds NaN or infinity")


def _shape(value: Any) -> str:
    """Return the shape of a tensor, or the type of what a damaged file holds in its place."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"
