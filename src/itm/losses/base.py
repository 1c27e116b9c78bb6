"""The loss protocol: what a matcher, the data and the callbacks ask of a loss.

A loss is called as `loss(scores, pairs, encoded)`: scores (I, C), row = image, column = caption;
`pairs` the batch (None: row i belongs to column i); `encoded` the encoded images and captions, for
losses that look at vectors. Losses of the library derive from `Loss`. A loss of your own may be any
callable: `as_loss` gives it the form of `Loss`, with the defaults for all that it does not state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from itm.batch import Encoded, Pairs

Sides = tuple[Encoded, Encoded]  # images, captions
LossFunction = Callable[[Tensor, Pairs, Sides], Tensor]


class Hinge(NamedTuple):
    """The options of a hinge that decide where its loss stalls when all scores are equal.

    Attributes:
        margin: the margin.
        negatives: "hardest", "all" or "top".
        reduction: "sum" or "mean".
        warmup_steps: first training batches with all negatives; None = the loss has no warm-up.
    """

    margin: float
    negatives: str
    reduction: str
    warmup_steps: int | None = None


class Loss(nn.Module):
    """Base of all losses: a subclass defines `forward` and overrides what differs.

    Attributes:
        needs_relevance: the batch must bring `pairs.relevance`.
        needs_labels: the batch must bring `pairs.captions.labels`.
        sentences: captions per image in a batch that the loss is made for.
        gather: score against the batches of all processes.
    """

    needs_relevance: bool = False
    needs_labels: bool = False
    sentences: int = 1
    gather: bool = False

    forward: Callable[..., Tensor]

    @property
    def ranked(self) -> "Loss":
        """The loss that ranks each score level (I, C): this one, or one that it contains."""
        return self

    def terms(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> dict[str, Tensor]:
        """Terms added once, on the main score level (I, C): name -> scalar, weights included."""
        return {}

    def ground(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> dict[str, Tensor]:
        """Terms of C phrases and the regions of their images: name -> scalar, weights included.

        Args:
            scores: (C, R), of each phrase with the regions of its own image, -inf for padding.
            pairs: the batch; `target` (C, R) in {+1, 0, -1} marks the regions.
            encoded: regions (I, R, D) and phrases (C, D).

        Raises:
            ValueError: the loss has no form for regions.
        """
        raise ValueError(
            f"{type(self).__name__} does not rank the regions of an image; train phrases with "
            "loss=neighborhood or loss=logistic"
        )

    def start_batch(self) -> None:
        """Begin a training batch, for this loss and those inside it.

        `Matcher.losses` calls it once per batch, before the score levels are ranked.
        """
        for part in self.modules():
            if isinstance(part, Loss):
                part.on_batch()

    def on_batch(self) -> None:
        """Follow the course of training, such as by counting the batches of a warm-up."""

    def set_labels(self, labels: Any) -> None:
        """Take what the loss needs of the label vocabulary (`itm.text.Labels`)."""

    def set_relevance(self, index: Any) -> None:
        """Take the relevance of all training captions, for batches that do not bring their own.

        Args:
            index: an `itm.relevance.CiderIndex`, or another object with its `batch` method.
        """

    def hinge(self) -> Hinge | None:
        """The hinge that this loss ranks with, or None; ask it of `ranked`."""
        return None


def as_loss(loss: Any) -> Loss:
    """Any loss in the form of the protocol.

    Args:
        loss: a `Loss`, which is returned as it is, or a callable `loss(scores, pairs, encoded)`.

    Raises:
        TypeError: not a callable.
    """
    if isinstance(loss, Loss):
        return loss
    if not callable(loss):
        raise TypeError(f"loss={loss!r}: expected a callable loss(scores, pairs, encoded)")
    return PlainLoss(loss)


class PlainLoss(Loss):
    """A callable in the form of `Loss`.

    Attributes and methods of the callable count where they have the names of `Loss`. Beside these,
    its `ranking` is the loss that ranks each score level, and `relevance_index` is set to what
    `set_relevance` is given.

    Args:
        given: the callable.
    """

    def __init__(self, given: Callable[..., Tensor]):
        super().__init__()
        self.given = given
        for name in ("needs_relevance", "needs_labels", "sentences", "gather"):
            setattr(self, name, getattr(given, name, getattr(Loss, name)))

    def forward(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> Tensor:
        """What the callable returns."""
        return self.given(scores, pairs, encoded)

    @property
    def ranked(self) -> Loss:
        """Its `ranking`, if it has one."""
        ranking = getattr(self.given, "ranking", None)
        return self if ranking is None else as_loss(ranking)

    def terms(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> dict[str, Tensor]:
        """Its own, or none."""
        terms: dict[str, Tensor] = self._own("terms", super().terms)(scores, pairs, encoded)
        return terms

    def ground(self, scores: Tensor, pairs: Pairs, encoded: Sides) -> dict[str, Tensor]:
        """Its own, or the error of `Loss.ground`."""
        terms: dict[str, Tensor] = self._own("ground", super().ground)(scores, pairs, encoded)
        return terms

    def on_batch(self) -> None:
        """Pass it on; to losses inside a module it comes by itself, see `start_batch`."""
        self._own("on_batch", super().on_batch)()
        if not isinstance(self.given, nn.Module) and self.ranked is not self:
            self.ranked.start_batch()

    def set_labels(self, labels: Any) -> None:
        """Pass the labels on, if the callable takes them."""
        self._own("set_labels", super().set_labels)(labels)

    def set_relevance(self, index: Any) -> None:
        """Pass the index on, or set it as `relevance_index`."""

        def keep(index: Any) -> None:
            self.given.relevance_index = index  # type: ignore[attr-defined]

        self._own("set_relevance", keep)(index)

    def hinge(self) -> Hinge | None:
        """Of a callable with margin, negatives and reduction."""
        given: Any = self.given
        if any(getattr(given, name, None) is None for name in ("margin", "negatives", "reduction")):
            return None
        warmup = getattr(given, "warmup_steps", None)
        return Hinge(given.margin, given.negatives, given.reduction, warmup)

    def _own(self, name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        """A method of the callable, or the default."""
        method: Callable[..., Any] = getattr(self.given, name, default)
        return method
