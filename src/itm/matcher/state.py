"""Pack and restore what a saved matcher holds besides weights: class, arguments, word lists."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from itm import __version__
from itm.data.needs import same_words
from itm.data.origin import check_origin
from itm.layers.text import as_text_encoder
from itm.losses.base import as_loss
from itm.matcher.attachment import compare_data, record_data
from itm.matcher.protocol import MatcherLike
from itm.matcher.waiting import check_built
from itm.text.concepts import Concepts
from itm.text.labels import Labels
from itm.text.vocabulary import vocabulary_from
from itm.training.lightning_private import attached_trainer
from itm.utils.options import argument_types

if TYPE_CHECKING:
    from itm.matcher.matcher import Matcher

FORMAT = 1
LOSS = "loss."  # prefix of the loss's tensors
ORIGINS = "trained_on"  # in checkpoints and config.json


def pack_state(matcher: MatcherLike) -> dict[str, Any]:
    """Return class name, version and word lists as plain data."""
    words = {
        name: getattr(matcher, name).state()
        for name in ("vocab", "concepts", "labels")
        if getattr(matcher, name) is not None
    }
    return {"format": FORMAT, "class": type(matcher).__name__, "version": __version__, **words}


def saved_arguments(matcher: MatcherLike) -> dict[str, Any]:
    """Return the constructor arguments, with what the text encoder adds to its own.

    Hyper-parameters that only a parent's constructor takes are left out. A pretrained encoder adds
    its configuration, so that it is rebuilt on loading without the folder or hub that it came from.

    Raises:
        ValueError: the matcher still waits for its sizes.
    """
    check_built(matcher)
    arguments = _own_arguments(type(matcher), matcher.hparams)
    added = as_text_encoder(matcher.text).saved_arguments()
    if added and "text" in arguments:  # else the constructor makes its encoder without an option
        arguments["text"] = {**arguments["text"], **added}
    return arguments


def _own_arguments(kind: type, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Choose the arguments of a class's own constructor among hyper-parameters."""
    parameters = inspect.signature(kind).parameters.values()
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return dict(saved)
    own = argument_types(kind)
    return {n: x for n, x in saved.items() if n in own or n.startswith("_")}  # "_": LightningCLI's


def unpack_state(matcher: MatcherLike, state: dict[str, Any]) -> None:
    """Restore the word lists of `pack_state` into a matcher.

    Raises:
        ValueError: the matcher already has other words, or a newer version wrote the state.
    """
    if state.get("format", FORMAT) > FORMAT:
        raise ValueError(f"written by a newer itm {state.get('version')}; please upgrade")
    for name in ("vocab", "concepts", "labels"):
        if name not in state:
            continue
        mine, saved = getattr(matcher, name), _rebuild(name, state[name])
        if mine is None:
            setattr(matcher, name, saved)
        elif not same_words(mine, saved):  # not the stored text: another zlib packs otherwise
            raise ValueError(
                f"the checkpoint's {name} differs from the data's ({len(saved)} words against "
                f"{len(mine)}): its weights only make sense with its own words; use the same "
                f"training captions, or data.{name}=FILE with those of the checkpoint"
            )


def pack_origins(matcher: MatcherLike) -> dict[str, Any]:
    """Return what the matcher was trained on as plain data, {} if that is unknown."""
    return {ORIGINS: matcher.trained_on} if matcher.trained_on else {}


def unpack_origins(matcher: MatcherLike, state: Mapping[str, Any]) -> None:
    """Restore what `pack_origins` returned; earlier versions wrote none.

    Raises:
        ValueError: it is damaged.
    """
    if ORIGINS in state:
        matcher.trained_on = [check_origin(x) for x in state[ORIGINS]]


def on_save_checkpoint(matcher: Matcher, checkpoint: dict[str, Any]) -> None:
    """Add class name, word lists and the fingerprint of the training data to a checkpoint."""
    checkpoint["itm"] = pack_state(matcher)
    checkpoint |= pack_origins(matcher)
    checkpoint["hyper_parameters"] = saved_arguments(matcher)
    checkpoint["epoch_loss"] = matcher.epoch_loss.state_dict()
    record_data(matcher, checkpoint)


def on_load_checkpoint(matcher: Matcher, checkpoint: dict[str, Any]) -> None:
    """Take the word lists of a checkpoint, and drop the state of another loss.

    Raises:
        ValueError: this matcher already has other word lists, training would continue on other
            data, or weights are NaN.
    """
    check_not_nan(checkpoint.get("state_dict", {}), "the checkpoint")
    keep_average(matcher, checkpoint)
    compare_data(matcher, checkpoint)
    unpack_state(matcher, checkpoint.get("itm", {}))
    unpack_origins(matcher, checkpoint)
    adapt_loss_state(matcher, checkpoint.get("state_dict", {}))
    if "epoch_loss" in checkpoint:  # earlier versions wrote none
        matcher.epoch_loss.load_state_dict(checkpoint["epoch_loss"])


def check_not_nan(tensors: Mapping[str, Any], source: str) -> None:
    """Check that no weight is NaN; infinity may be meant, as in a mask.

    Raises:
        ValueError: some are, as after a training that diverged: all scores would be NaN.
    """
    weights = {k: x for k, x in tensors.items() if isinstance(x, Tensor) and x.is_floating_point()}
    if broken := [name for name, x in weights.items() if x.isnan().any()]:
        others = f" and {len(broken) - 1} other weights" if broken[1:] else ""
        raise ValueError(
            f"{source}: {broken[0]}{others} hold NaN, as after a training that diverged: use an "
            "earlier checkpoint"
        )


def keep_average(matcher: Matcher, checkpoint: dict[str, Any]) -> None:
    """Let a validation or test use the averaged weights, which `state_dict` of a checkpoint holds.

    After a training with `EMAWeightAveraging`, Lightning's callback replaces them by the weights of
    the last step, "current_model_state", which only a resumed training needs.
    """
    trainer = attached_trainer(matcher)
    fits = trainer is None or trainer.state.fn == TrainerFn.FITTING
    if not fits and "current_model_state" in checkpoint:
        checkpoint["current_model_state"] = checkpoint["state_dict"]


def adapt_loss_state(matcher: MatcherLike, tensors: dict[str, Tensor]) -> None:
    """Replace the loss's tensors of a checkpoint by the matcher's own, unless they fit its loss.

    `load_from_checkpoint` makes matchers without a loss, or with another one than in training. A
    loss that waits for the number of labels gets it first.

    Args:
        matcher: matcher that the tensors will be loaded into, with its labels.
        tensors: tensors by name; edited in place.
    """
    if matcher.loss is not None and matcher.labels is not None:
        loss = as_loss(matcher.loss)
        if loss.needs_labels:
            loss.set_dim(matcher.label_dim)
            loss.set_labels(matcher.labels)
    own = {k: v for k, v in matcher.state_dict().items() if k.startswith(LOSS)}
    there = {k: v for k, v in tensors.items() if k.startswith(LOSS)}
    if {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in there.items()}:
        return
    for name in there:
        del tensors[name]
    tensors.update(own)
    if own:
        rank_zero_warn(
            "the checkpoint was written with a loss of other sizes, or another loss, so "
            f"{type(matcher.loss).__name__} starts from its initial state"
        )


def _rebuild(name: str, state: dict[str, Any]) -> Any:
    if name == "vocab":
        return vocabulary_from(state)
    return (Concepts if name == "concepts" else Labels).from_state(state)
