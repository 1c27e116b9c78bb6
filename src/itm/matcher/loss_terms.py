"""Compute what training minimises: `Matcher.losses` and `Matcher.training_step`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from itm.batch import Encoded, Pairs, check_encoded
from itm.layers.functional import full, weighted
from itm.losses.base import Loss
from itm.matcher.epoch_loss import EpochLoss
from itm.matcher.gather import count_captions, gather_batch
from itm.matcher.gradient_cache import encode_in_chunks
from itm.matcher.inputs import check_images
from itm.matcher.protocol import MatcherLike
from itm.training.lightning_private import attached_trainer


class Trained(MatcherLike, Protocol):
    """What training needs from a matcher."""

    epoch_loss: EpochLoss
    last_batch: tuple[int, int, int] | None
    needs_labels: ClassVar[bool]
    evaluates_again: bool
    chunk_size: int | None

    @property
    def objective(self) -> Loss: ...  # noqa: D102
    def losses(self, pairs: Pairs) -> dict[str, Tensor]: ...  # noqa: D102
    def training_scores(  # noqa: D102
        self, images: Encoded, captions: Encoded
    ) -> Mapping[str, tuple[float, Tensor]]: ...
    def extra_losses(  # noqa: D102
        self, pairs: Pairs, images: Encoded, captions: Encoded
    ) -> dict[str, Tensor]: ...

    @property
    def log(self) -> Callable[..., None]: ...  # noqa: D102


def losses(matcher: Trained, pairs: Pairs) -> dict[str, Tensor]:
    """Compute all loss terms of a batch: name -> scalar; training minimises "total".

    Total = sum over score levels of weight x ranking loss, plus the additional terms of the loss
    on the main level, plus the backbone's own losses.
    """
    loss = matcher.objective
    if loss.needs_labels and matcher.needs_labels:
        loss.set_dim(matcher.label_dim)  # the backbone may have a label head, as CASC
    check_images(pairs.images, matcher)
    images, captions = encode_pairs(matcher, pairs)
    terms = matcher.extra_losses(pairs, images, captions)
    if loss.gather:
        pairs, images, captions = gather_batch(pairs, images, captions)
    levels = matcher.training_scores(images, captions)
    ranking, encoded = loss.ranked, (images, captions)
    begin_batch(matcher)
    for name, (weight, scores) in levels.items():
        key = "ranking" if len(levels) == 1 else f"ranking_{name}"
        terms[key] = weighted(weight, ranking(scores, pairs, encoded))
    main = next(iter(levels.values()))[1]
    terms |= loss.terms(main, pairs, encoded)
    return terms | {"total": torch.stack([full(term) for term in terms.values()]).sum()}


def begin_batch(matcher: Trained) -> None:
    """Let the loss count a batch, unless an optimiser such as LBFGS evaluates it once more."""
    if not matcher.evaluates_again:
        matcher.objective.start_batch()


def encode_pairs(matcher: Trained, pairs: Pairs) -> tuple[Encoded, Encoded]:
    """Encode both sides of a batch for training, in chunks if `chunk_size` is set."""
    if matcher.chunk_size is None:
        encode_images, encode_captions = matcher.training_encoders()
        images, captions = encode_images(pairs.images), encode_captions(pairs.captions)
        check_encoded(images, "encode_images")
        check_encoded(captions, "encode_captions")
        return images, captions
    return encode_in_chunks(matcher, pairs, matcher.chunk_size)


def training_step(matcher: Trained, batch: Pairs, batch_idx: int) -> dict[str, Any]:
    """Compute the loss of a batch, and log all terms per pair.

    A loss that sums over the batch is divided by the number of pairs, so that a short last batch
    does not look like progress.

    Returns:
        "loss" to minimise, "terms" as computed, "pairs" over which they sum (1 for a mean),
        "per_pair" the total that is logged.

    Raises:
        ValueError: the loss depends on no parameter.
    """
    trainer = attached_trainer(matcher)
    place = (0 if trainer is None else trainer.current_epoch, batch_idx, id(batch))
    # Without a trainer, a loop of one's own may train on one batch again and again.
    matcher.evaluates_again = trainer is not None and place == matcher.last_batch
    matcher.last_batch = place
    terms = matcher.losses(batch)
    if torch.is_grad_enabled() and not terms["total"].requires_grad:
        raise ValueError(
            "the loss depends on no parameter that is trained: compute it from the given scores "
            "or encoded vectors, without detach(), item() or torch.no_grad()"
        )
    values = {name: value.detach() for name, value in terms.items()}
    size, pairs = len(batch.captions.lengths), _summed_pairs(matcher.objective, batch)
    for name, value in values.items():
        key = "loss" if name == "total" else name
        matcher.log(f"train/{key}", value / pairs, batch_size=size, prog_bar=name == "total")
    per_pair = values["total"] / pairs
    if not matcher.evaluates_again:
        matcher.epoch_loss.add(per_pair, size)
    matcher.evaluates_again = False
    return {"loss": terms["total"], "terms": values, "pairs": pairs, "per_pair": per_pair}


def _summed_pairs(loss: Loss, batch: Pairs) -> int | Tensor:
    """Count the pairs that a loss sums over: of all processes if it gathers, 1 for a mean."""
    if not loss.is_summed:
        return 1
    return count_captions(batch) if loss.gather else len(batch.captions.lengths)
