"""Define the loss protocol that matchers, data modules and callbacks use.

A loss is called as `loss(scores, pairs, encoded)`: scores (I, C), row = image, column = caption;
`pairs` is the batch (None: row i belongs to column i); `encoded` holds the encoded images and
captions, for losses that read vectors. Losses of the library derive from `Loss`. Your own loss may
be any callable: `as_loss` wraps it in a `Loss` and fills in defaults for what it does not define.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from itm.batch import Encoded, Pairs

Sides = tuple[Encoded, Encoded]  # images, captions


class Hinge(NamedTuple):
    """Hold the options of a hinge loss that determine its value when all scores are equal.

    Attributes:
        margin: the margin.
        negatives: "hardest", "all" or "top".
        reduction: "sum" or "mean".
        warmup_steps: number of initial training batches with all negatives; None = no warm-up.
    """

    margin: float
    negatives: str
    reduction: str
    warmup_steps: int | None = None


class Loss(nn.Module):
    """Base class of all losses: a subclass defines `forward` and overrides what differs.

    Attributes:
        needs_relevance: the batch must contain `pairs.relevance`.
        needs_labels: the batch must contain `pairs.captions.labels`.
        sentences: captions per image that the loss expects in a batch.
        gather: score against the batches of all processes.

    Examples:
        >>> import torch
        >>> from itm.losses import Loss
        >>> class Diagonal(Loss):
        ...     def forward(self, scores, pairs=None, encoded=None):
        ...         return -scores.diagonal().mean()
        >>> float(Diagonal()(torch.eye(3)))
        -1.0
    """

    needs_relevance: bool = False
    needs_labels: bool = False
    sentences: int = 1
    gather: bool = False

    forward: Callable[..., Tensor]

    @property
    def ranked(self) -> "Loss":
        """Return the loss that ranks each score level (I, C): this loss or one inside it."""
        return self

    def terms(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> dict[str, Tensor]:
        """Compute additional terms on the main score level (I, C): name -> weighted scalar."""
        return {}

    def ground(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> dict[str, Tensor]:
        """Rank the regions of an image for each phrase: name -> weighted scalar.

        Args:
            scores: (C, R) of each phrase with the regions of its own image, -inf for padding.
            pairs: the batch; `target` (C, R) in {+1, 0, -1} labels the regions.
            encoded: regions (I, R, D) and phrases (C, D).

        Raises:
            ValueError: the loss is not defined for regions.
        """
        raise ValueError(
            f"{type(self).__name__} does not rank the regions of an image; train phrases with "
            "loss=neighborhood or loss=logistic"
        )

    def check_batch(self, pairs: Pairs) -> None:
        """Check the values of a training batch that is still on the host.

        The data module calls this through the matcher, because the same check on a device would
        make every training step wait.

        Raises:
            ValueError: the loss cannot use the batch.
        """

    def start_batch(self) -> None:
        """Begin a batch: call `on_batch` of this loss and of every loss inside it.

        `Matcher.losses` calls this once per batch, before it ranks the score levels.
        """
        for part in self.modules():
            if isinstance(part, Loss):
                part.on_batch()

    def on_batch(self) -> None:
        """Update state that depends on training progress, such as a warm-up counter."""

    def set_dim(self, dim: int | None) -> None:
        """Take the width of the global vectors, `Matcher.label_dim`; called before `set_labels`."""

    def set_labels(self, labels: Any) -> None:
        """Take what the loss needs from the label vocabulary (`itm.text.Labels`)."""

    def set_relevance(self, index: Any) -> None:
        """Take an index of the training captions, for batches without `relevance`.

        Args:
            index: an `itm.relevance.CiderIndex` or an object with the same `batch` method.
        """

    def hinge(self) -> Hinge | None:
        """Return the hinge options of this loss, or None; call it on `ranked`."""
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return optimiser groups for parameters with a special learning rate or weight decay.

        See `itm.matcher.Matcher.parameter_groups`; all other parameters join the main group.
        """
        return []

    @property
    def is_summed(self) -> bool:
        """Tell whether the value grows with the number of pairs in a batch."""
        hinge = self.ranked.hinge()
        own = getattr(self, "reduction", None) if hinge is None else hinge.reduction
        return own == "sum"


LossFunction = Loss | Callable[[Tensor, Pairs, Sides], Tensor]


def as_loss(loss: Any) -> Loss:
    """Return a loss that follows the protocol.

    Args:
        loss: a `Loss`, returned unchanged, or a callable `loss(scores, pairs, encoded)`.

    Raises:
        TypeError: `loss` is not callable, does not take three arguments, or is a function of
            `itm.losses`.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, type):
        raise TypeError(f"loss must be an object, got the class {loss.__name__}: {loss.__name__}()")
    if not callable(loss):
        raise TypeError(f"loss must be a callable loss(scores, pairs, encoded), got {loss!r}")
    function = loss.func if isinstance(loss, functools.partial) else loss
    if inspect.isfunction(function) and str(function.__module__).startswith("itm.losses."):
        raise TypeError(
            f"itm.losses.{function.__name__} computes the equation of a loss from its own "
            "arguments; a matcher takes a loss object, such as itm.losses.Triplet()"
        )
    _check_arguments(loss)
    return PlainLoss(loss)


def _check_arguments(loss: Any) -> None:
    """Raise TypeError if a callable, or `forward` of a module, does not take three arguments."""
    if isinstance(loss, nn.Module):
        called = loss.forward
    elif inspect.isroutine(loss) or isinstance(loss, functools.partial):
        called = loss
    else:  # of the object itself, inspect would leave out the first argument of a static method
        called = loss.__call__
    try:
        signature = inspect.signature(called)
    except ValueError:  # Python does not know that of some functions written in C
        return
    try:
        signature.bind(None, None, None)
    except TypeError as error:
        name = "" if inspect.isfunction(loss) else f", {type(loss).__name__},"
        raise TypeError(
            f"loss must be a callable loss(scores, pairs, encoded), got one{name} that takes "
            f"{signature}"
        ) from error


class PlainLoss(Loss):
    """Wrap a callable as a `Loss`.

    Attributes and methods of the callable replace the defaults of `Loss` with the same name. Two
    more names are known: `ranking`, a loss for each score level, and `relevance_index`, which
    `set_relevance` sets if the callable does not define `set_relevance` itself.

    Args:
        given: the callable.
    """

    def __init__(self, given: Callable[..., Tensor]):
        super().__init__()
        self.given = given
        for name in ("needs_relevance", "needs_labels", "sentences", "gather"):
            setattr(self, name, getattr(given, name, getattr(Loss, name)))
        self.reduction = getattr(given, "reduction", None)

    def forward(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> Tensor:
        """Call the callable.

        Raises:
            TypeError: it returns something else than a scalar tensor.
        """
        value = self.given(scores, pairs, encoded)
        if not isinstance(value, Tensor) or value.dim():
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise TypeError(
                f"loss must return a scalar tensor, got a {type(value).__name__}{shape}"
            )
        return value

    @property
    def ranked(self) -> Loss:
        """Return the callable's `ranking`, or this loss if it has none."""
        ranking = getattr(self.given, "ranking", None)
        return self if ranking is None else as_loss(ranking)

    def terms(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> dict[str, Tensor]:
        """Call the callable's `terms`, or return no terms."""
        terms: dict[str, Tensor] = self._own("terms", super().terms)(scores, pairs, encoded)
        return terms

    def ground(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> dict[str, Tensor]:
        """Call the callable's `ground`, or raise the error of `Loss.ground`."""
        terms: dict[str, Tensor] = self._own("ground", super().ground)(scores, pairs, encoded)
        return terms

    def check_batch(self, pairs: Pairs) -> None:
        """Call the callable's `check_batch`, if it has one."""
        self._own("check_batch", super().check_batch)(pairs)

    def on_batch(self) -> None:
        """Call the callable's `on_batch`, and start the batch of its `ranking`.

        If the callable is a module, `start_batch` reaches the losses inside it by itself.
        """
        self._own("on_batch", super().on_batch)()
        if not isinstance(self.given, nn.Module) and self.ranked is not self:
            self.ranked.start_batch()

    def set_dim(self, dim: int | None) -> None:
        """Pass the width on if the callable defines `set_dim`."""
        self._own("set_dim", super().set_dim)(dim)

    def set_labels(self, labels: Any) -> None:
        """Pass the labels on if the callable defines `set_labels`."""
        self._own("set_labels", super().set_labels)(labels)

    def set_relevance(self, index: Any) -> None:
        """Pass the index on, or store it as the callable's `relevance_index`."""

        def keep(index: Any) -> None:
            self.given.relevance_index = index  # type: ignore[attr-defined]

        self._own("set_relevance", keep)(index)

    def hinge(self) -> Hinge | None:
        """Return the options of a callable that has margin, negatives and reduction."""
        given: Any = self.given
        if any(getattr(given, name, None) is None for name in ("margin", "negatives", "reduction")):
            return None
        warmup = getattr(given, "warmup_steps", None)
        return Hinge(given.margin, given.negatives, given.reduction, warmup)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the callable's groups, or none."""
        groups: list[dict[str, Any]] = self._own("parameter_groups", super().parameter_groups)()
        return groups

    def _own(self, name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method of the callable, or the default."""
        method: Callable[..., Any] = getattr(self.given, name, default)
        return method
