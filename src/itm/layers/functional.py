"""Small functions that several matchers share: norms, masks, the region projection."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from itm.batch import Encoded

P = ParamSpec("P")
T = TypeVar("T")


def full(x: Tensor) -> Tensor:
    """At least float32: half and bfloat16 are widened, float64 stays."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function with autocast off; norms, softmax, sums and hinges belong there."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        device = next((a.device.type for a in _tensors(args)), "cpu")
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return run


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors inside nested tuples, lists and dicts, first found first."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            yield from _tensors(value.values())
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def l2norm(x: Tensor, dim: int = -1, eps: float = 1e-8) -> Tensor:
    """Unit vectors: x / (||x|| + eps) along `dim`, in at least float32.

    A zero vector gives a zero vector and a zero gradient (the plain formula gives NaN).
    """
    x = full(x)
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x * torch.where(norm > 0, 1 / (norm + eps), torch.zeros_like(norm))


@full_precision
def distances(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(|a|^2 - 2 a.b + |b|^2 + 1e-4), (..., N, D) and (..., M, D) -> (..., N, M).

    The squared distance is clamped at 0 first: rounding makes it negative for equal vectors, and
    the root of a negative number is NaN. The 1e-4 keeps the gradient of a small distance bounded
    (two-branch networks).
    """
    a, b = full(a), full(b)
    squares = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :]
    return ((squares - 2 * a @ b.mT).clamp_min(0) + 1e-4).sqrt()


def length_mask(lengths: tuple[int, ...], size: int, device: torch.device) -> Tensor:
    """(C, L) bool: position l of caption c is real."""
    ends = torch.tensor(lengths, device=device)
    return torch.arange(size, device=device)[None, :] < ends[:, None]


def masked_mean(x: Tensor, mask: Tensor, dim: int = 1) -> Tensor:
    """Mean over the real entries along `dim`; a row without any gives zero.

    Args:
        x: (N, P, D) with dim=1.
        mask: (N, P).
        dim: the axis of the parts.
    """
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(dim) / weight.sum(dim).clamp_min(1)


def last_state(states: Tensor, counts: Tensor) -> Tensor:
    """The state at each row's last real position: (N, P, D), (N,) counts -> (N, D).

    What a forward recurrent network holds there knows nothing of the padding behind it, so nothing
    needs to be packed. A row without real positions gives its first state.
    """
    rows = torch.arange(len(states), device=states.device)
    return states[rows, counts.clamp_min(1) - 1]


def masked_softmax(x: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Softmax over the real entries along `dim`; a row without any gives zeros, not NaN."""
    x = full(x).masked_fill(~mask, float("-inf"))
    empty = ~mask.any(dim, keepdim=True)
    return torch.softmax(x.masked_fill(empty, 0.0), dim).masked_fill(~mask, 0.0)


def xavier_(linear: nn.Linear) -> nn.Linear:
    """Weight uniform in +-sqrt(6 / (in + out)), bias zero."""
    bound = math.sqrt(6 / (linear.in_features + linear.out_features))
    nn.init.uniform_(linear.weight, -bound, bound)
    nn.init.zeros_(linear.bias)
    return linear


def global_vector(encoded: Encoded) -> Tensor:
    """(N, D): the global vector, else the normalised masked mean of the parts."""
    if encoded.vector is not None:
        return encoded.vector
    assert encoded.parts is not None and encoded.mask is not None
    return l2norm(masked_mean(full(encoded.parts), encoded.mask))
