"""Let a matcher wait for its sizes: `VSRN(loss=SAM())` is built when a trainer brings the data.

A constructor that takes `vocab_size` and gets none only keeps its arguments. `RegionDataModule`
hands itself over before training starts; then the matcher is built with the sizes of the data.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from pytorch_lightning.utilities import rank_zero_warn

from itm.utils.checks import check_sizes
from itm.utils.options import flat

# A size that equals the constructor's default counts as not given: LightningCLI passes them all.
SIZES = ("img_dim", "num_regions", "num_labels", "num_concepts", "sentence_dim")
# Constructor arguments that are objects. They are never saved as hyper-parameters, because a
# checkpoint with pickled objects can be neither loaded safely nor resumed.
OBJECTS = ["loss", "optimizer", "scheduler"]
INHERITED = "_inherited"  # attribute: what a parent's constructor saved, until the own one ends
# Sizes for trying out a constructor.
TRIAL = {"vocab_size": 8, "img_dim": 8, "sentence_dim": 8}


class Pending(NamedTuple):
    """What a waiting matcher remembers.

    Attributes:
        arguments: arguments of its constructor.
        blank: its attributes when it began to wait.
    """

    arguments: dict[str, Any]
    blank: dict[str, Any]


def may_wait(init: Callable[..., None]) -> Callable[..., None]:
    """Let a constructor wait if its class says that sizes are missing; see `Matcher.lacks_sizes`.

    Only the constructor of the object's own class waits, not those that it calls by `super()`. Its
    arguments become the hyper-parameters, unless it calls `save_hyperparameters` itself: that of a
    parent saves the parent's arguments only.

    The wrapped constructor raises a TypeError if it is a parent's and gets no sizes.
    """
    parameters = inspect.signature(init).parameters
    names, defaults = list(parameters)[1:], {n: p.default for n, p in parameters.items()}
    waits = "vocab_size" in names

    @functools.wraps(init)
    def accept(self: Any, *args: Any, **arguments: Any) -> None:
        given = dict(zip(names, args, strict=False)) | arguments
        if waits:
            check_sizes(given)
            if isinstance(given.get("text"), str):
                raise TypeError(f"text must be a dict such as {{'name': {given['text']!r}}}")
        own = type(self).__init__ is accept
        if own and waits and len(args) <= len(names) and self.lacks_sizes(given):
            given = {n: x for n, x in given.items() if n not in SIZES or x != defaults.get(n)}
            _try_out(type(self), given)
            self.wait(given)
            return
        if waits and not own and self.lacks_sizes(given):
            raise TypeError(
                f"{type(self).__name__} extends a matcher that waits for its sizes: let its own "
                "constructor take them, too, def __init__(self, vocab_size=None, img_dim=2048, "
                "...), and pass them on, or give vocab_size"
            )
        init(self, *args, **arguments)
        if own:
            _save_own(self, _with_defaults(parameters) | given)
        else:
            vars(self)[INHERITED] = dict(self.hparams)

    return accept


def _with_defaults(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Return the defaults of a constructor that are plain data or groups of it."""
    found = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
    return {n: x for n, x in found.items() if _is_plain(flat({n: x}))}


def odd_arguments(arguments: Mapping[str, Any]) -> list[str]:
    """List the arguments that no file can hold.

    `text` is none: it may hold a transformer's configuration, whose keys may be numbers.
    """
    return [n for n, x in arguments.items() if n != "text" and not _is_plain(x)]


def _save_own(matcher: Any, arguments: Mapping[str, Any]) -> None:
    """Save the arguments of a matcher's own class, unless its constructor has done so."""
    inherited, saved = vars(matcher).pop(INHERITED, {}), matcher.hparams
    if saved.keys() == inherited.keys() and all(saved[n] is inherited[n] for n in saved):
        saved = flat({n: x for n, x in arguments.items() if n not in OBJECTS})
        if not odd_arguments(saved):
            matcher.save_hyperparameters(saved)
    if odd := odd_arguments(saved):  # said before the training
        rank_zero_warn(
            f"{type(matcher).__name__} can be trained, but not loaded from its files, because of "
            f"{', '.join(odd)}: arguments must be plain data (numbers, texts, lists, dicts), from "
            "which the constructor makes its objects"
        )


def _is_plain(value: Any) -> bool:
    """Tell whether a checkpoint can hold a value as plain data."""
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(x) for k, x in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _try_out(cls: type, arguments: Mapping[str, Any]) -> None:
    """Build a matcher without memory for weights, so that a wrong option fails at once."""
    if (arguments.get("text") or {}).get("name") == "bert":
        return  # this would read the transformer's weights
    with torch.device("meta"):
        cls(**{**arguments, **_missing(cls, arguments, TRIAL)})


def check_built(matcher: Any) -> None:
    """Raise ValueError if a matcher still waits for its sizes."""
    if matcher.pending is not None:
        raise ValueError(
            f"{type(matcher).__name__} was made without all of its sizes, so it has no weights and "
            "waits for a data module: use trainer.fit(matcher, RegionDataModule(FOLDER)), or give "
            "vocab_size, img_dim and the other sizes"
        )


def build(matcher: Any, sizes: Mapping[str, Any]) -> None:
    """Build a waiting matcher with the sizes of the data.

    Attributes that were set while it waited, such as `chunk_size`, stay, and so do a type and a
    device that it was moved to, as by `matcher.double()`.

    Args:
        matcher: a matcher that waits.
        sizes: sizes by argument name; fill the arguments of the constructor that were not given.
    """
    cls, loss = type(matcher), matcher.loss  # the loss may have been replaced
    arguments, blank = matcher.pending
    fresh = cls(**{**arguments, **_missing(cls, arguments, sizes)})
    now = vars(matcher)
    set_since = {n: x for n, x in now.items() if n not in blank or x is not blank[n]}
    now.clear()
    now.update(vars(fresh) | set_since)
    matcher.pending, matcher.loss = None, loss
    if {"_dtype", "_device"} & set_since.keys():
        matcher.to(device=matcher.device, dtype=matcher.dtype)


def _missing(cls: type, arguments: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    taken = inspect.signature(cls).parameters.keys()
    return {n: x for n, x in sizes.items() if n in taken and arguments.get(n) is None}
