"""Small functions that several backbones share: norms, distances, masks, pooling."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from itm.batch import Encoded

P = ParamSpec("P")
T = TypeVar("T")


def full(x: Tensor) -> Tensor:
    """Widen half and bfloat16 to float32; other types stay as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def for_products(x: Tensor) -> Tensor:
    """Cast once to the type in which autocast computes products, instead of in each product."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def full_precision(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function to run with autocast off, as norms, softmax, sums and hinges need."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        device = next((a.device.type for a in _tensors((*args, *kwargs.values()))), "cpu")
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return run


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors inside nested tuples, lists and dicts, in order."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            yield from _tensors(value.values())
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def l2norm(x: Tensor, dim: int = -1, eps: float = 1e-8) -> Tensor:
    """Scale to unit length, x / (||x|| + eps) along `dim`, in at least float32.

    A zero vector gives a zero vector and a zero gradient (the plain formula gives NaN).
    """
    scaled: Tensor = UnitLength.apply(full(x), dim, eps)
    return scaled


class UnitLength(torch.autograd.Function):
    """Implement `l2norm` with few kernels and few copies of x: only x and the norms are kept.

    dx = g / (n + eps) - x (g . x) / (n (n + eps)^2) for the gradient g and the norm n = ||x||.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, eps: float) -> Tensor:
        """Scale x along `dim`."""
        norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
        inverse = norm.sign().div_(norm + eps)  # 0 for a zero vector
        ctx.dim = dim
        ctx.save_for_backward(x, norm, inverse)
        return x * inverse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x, zero for a zero vector."""
        x, norm, inverse = ctx.saved_tensors
        along = (gradient * x).sum(ctx.dim, keepdim=True)
        # inverse is 0 where the norm is 0, so the bound only prevents 0 / 0.
        share = along * inverse.square() / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        scaled = gradient * inverse
        if x.device.type != "cpu":  # one kernel less; on a CPU it would round otherwise
            return scaled.addcmul_(x, share, value=-1), None, None
        return scaled - x * share, None, None


def at_most(x: Tensor, largest: float) -> Tensor:
    """Clamp x from above. Beyond the bound only gradients that reduce x pass, so x can return.

    The gradient of a plain clamp is 0 there: a parameter that once reached its bound would stay.
    """
    clamped: Tensor = AtMost.apply(x, largest)
    return clamped


class AtMost(torch.autograd.Function):
    """Implement `at_most`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, largest: float) -> Tensor:
        """Clamp x."""
        ctx.save_for_backward(x)
        ctx.largest = largest
        return x.clamp_max(largest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of x; a positive one reduces x."""
        (x,) = ctx.saved_tensors
        return gradient.masked_fill((x > ctx.largest) & (gradient < 0), 0.0), None


@full_precision
def distances(a: Tensor, b: Tensor) -> Tensor:
    """Compute distances (..., N, M) of (..., N, D) and (..., M, D), as the two-branch networks do.

    sqrt(|a|^2 - 2 a.b + |b|^2 + 1e-4). The squared distance is clamped at 0 first, because rounding
    can make it negative for equal vectors and its root NaN. The 1e-4 bounds the gradient of small
    distances.
    """
    a, b = full(a), full(b)
    squares = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :]
    return ((squares - 2 * a @ b.mT).clamp_min(0) + 1e-4).sqrt()


@full_precision
def order_scores(images: Tensor, captions: Tensor) -> Tensor:
    """Compute -||max(0, c - v)||, (I, C), of images (I, D) and captions (C, D).

    The order embedding of Vendrov et al., ICLR 2016: the score penalises what a caption exceeds its
    image by. A pair without such excess scores 0 and has a zero gradient.
    """
    beyond = full(captions)[None] - full(images)[:, None]  # (I, C, D)
    return -torch.linalg.vector_norm(beyond.clamp_min(0), dim=-1)


def length_mask(lengths: tuple[int, ...], size: int, device: torch.device) -> Tensor:
    """Mark the real positions of each caption, (C, L) bool with L = `size`."""
    return send(torch.arange(size) < torch.tensor(lengths)[:, None], device)


def send(x: Tensor, device: torch.device) -> Tensor:
    """Send a host tensor to a device without waiting for the device."""
    return x.to(device, non_blocking=True)


def masked_mean(x: Tensor, mask: Tensor, dim: int = 1) -> Tensor:
    """Average the real entries along `dim`; a row without real entries gives zero.

    Args:
        x: (N, P, D) with dim=1.
        mask: (N, P).
        dim: the axis of the parts.
    """
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(dim) / weight.sum(dim).clamp_min(1)


def last_state(states: Tensor, counts: Tensor) -> Tensor:
    """Select the state at each row's last real position: (N, P, D), (N,) counts -> (N, D).

    A forward recurrent network has not read the padding at that position, so its input needs no
    packing. A row without real positions gives its first state.
    """
    last = (counts - 1).clamp_min(0).view(-1, *[1] * (states.dim() - 1))  # (N, 1, 1)
    return states.gather(1, last.expand(-1, 1, *states.shape[2:])).squeeze(1)


def masked_softmax(x: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Apply softmax to the real entries along `dim`; a row without real entries gives zeros."""
    x, hole = full(x), ~mask
    # The least number, not -inf, so that a row without real entries does not become NaN.
    return torch.softmax(x.masked_fill(hole, torch.finfo(x.dtype).min), dim).masked_fill(hole, 0.0)


def weighted(weight: float, term: Tensor) -> Tensor:
    """Return weight x term; a weight of 1 costs no kernels."""
    return term if weight == 1 else weight * term


def xavier_(linear: nn.Linear) -> nn.Linear:
    """Initialise in place: weight uniform in +-sqrt(6 / (in + out)), bias zero."""
    bound = math.sqrt(6 / (linear.in_features + linear.out_features))
    nn.init.uniform_(linear.weight, -bound, bound)
    nn.init.zeros_(linear.bias)
    return linear


def global_vector(encoded: Encoded) -> Tensor:
    """Return the global vectors (N, D), or the normalised mean of the real parts without them."""
    if encoded.vector is not None:
        return encoded.vector
    assert encoded.parts is not None and encoded.mask is not None
    return l2norm(masked_mean(full(encoded.parts), encoded.mask))


def fill_pos_weight(buffer: Tensor, values: Any) -> None:
    """Copy K positive weights into a buffer (K,).

    Raises:
        ValueError: the number of weights is not K.
    """
    weight = torch.as_tensor(values, dtype=torch.float32)
    if weight.shape != buffer.shape:
        raise ValueError(
            f"pos_weight must hold {len(buffer)} numbers, one per label, got {weight.numel()}"
        )
    buffer.copy_(weight)
