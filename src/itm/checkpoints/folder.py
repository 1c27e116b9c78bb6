"""`itm.load`: read a matcher from a saved folder, a run folder or a checkpoint.

`save`, which writes a saved folder, is imported from `itm.matcher.saved`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

import itm.models
from itm.checkpoints.kinds import check_kinds
from itm.checkpoints.strict import check_fit, load_strictly
from itm.losses.base import as_loss
from itm.matcher.saved import WEIGHTS, find_weights, read, save
from itm.matcher.state import (
    LOSS,
    adapt_loss_state,
    check_not_nan,
    unpack_origins,
    unpack_state,
)
from itm.matcher.weight_identity import weight_sample
from itm.utils.devices import find_device
from itm.utils.readers import reader
from itm.utils.torch_files import read_torch

if TYPE_CHECKING:
    from itm.matcher.matcher import LossFunction, Matcher

__all__ = ["load", "matcher_class", "save"]


def load(
    path: str | Path,
    loss: LossFunction | None = None,
    model_class: str | type[Matcher] | None = None,
    device: str = "cpu",
) -> Matcher:
    """Load a matcher in eval mode with its vocabulary.

    Args:
        path: folder written by `save_pretrained`, a `.ckpt` file, or a run folder with
            checkpoints/best.ckpt.
        loss: a loss object, for further training; a checkpoint restores the state of such a loss,
            or a warning says that it cannot.
        model_class: your own class or its dotted name, if the class is not one of `itm.models`.
        device: to put it on; "auto" = the GPU if there is one.

    Raises:
        FileNotFoundError: nothing to load there; the message lists the files that were looked for.
        ValueError: weights and configuration do not fit, weights are NaN, a file cannot be read
            safely, or there is no such device or class.
        TypeError: the loss is not a loss.
    """
    if loss is not None:
        as_loss(loss)  # before the files, which an error would blame
    place, own = find_device(device), _own_class(model_class)
    return _load(path, loss, own).to(place).eval()


@reader()
def _load(
    path: str | Path, loss: LossFunction | None, model_class: type[Matcher] | None
) -> Matcher:
    config, tensors, record = read(path)
    path = Path(path).expanduser()
    try:
        arguments = _without_files(config["arguments"], path)
        kind = matcher_class(config["class"], model_class)
        if kind.__module__.startswith("itm.models."):  # others may not build on the meta device
            check_kinds(kind, arguments, str(path))
            _check_sizes(kind, arguments, tensors, path)
        matcher = kind(**arguments, loss=loss)
    except (AttributeError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path}: not the arguments of a matcher ({error!r})") from error
    load_strictly(matcher, tensors, str(path))
    check_not_nan(tensors, str(path))
    try:
        unpack_state(matcher, config)
        unpack_origins(matcher, config)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged word lists ({error!r})") from error
    _restore_loss(matcher, path)
    matcher.record, matcher.recorded = record, weight_sample(matcher)
    return matcher


def _restore_loss(matcher: Matcher, path: Path) -> None:
    """Give the loss its state in a checkpoint, such as a learnt temperature; folders hold none."""
    found = find_weights(path)
    has_state = any(name.startswith(LOSS) for name in matcher.state_dict())
    if found is None or found.name == WEIGHTS or not has_state:
        return
    tensors = {k: v for k, v in read_torch(found)["state_dict"].items() if k.startswith(LOSS)}
    adapt_loss_state(matcher, tensors)
    matcher.load_state_dict(tensors, strict=False)


def _own_class(given: str | type[Matcher] | None) -> type[Matcher] | None:
    """Import the class that a caller names.

    Raises:
        ValueError: the class does not exist or is not a matcher.
    """
    kind: Any = given
    if isinstance(given, str):
        module, _, attribute = given.rpartition(".")
        try:
            kind = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"model_class={given!r} cannot be imported ({error}): give the dotted name of a "
                "class, such as 'your.module.YourMatcher', whose module Python finds"
            ) from error
    if kind is None:
        return None
    if not (isinstance(kind, type) and issubclass(kind, LightningModule)):
        raise ValueError(f"model_class={given!r} is not a class of matchers")
    own: Any = kind
    return own


def matcher_class(name: str, trusted: str | type[Matcher] | None = None) -> type[Matcher]:
    """Find the class of a saved matcher.

    Args:
        name: class name in the file; it is looked up among `itm.models` only, never imported.
        trusted: class to use instead, or its dotted name, given by the caller.

    Raises:
        ValueError: the name is not in `itm.models`, or the given class does not exist.
    """
    if (own := _own_class(trusted)) is not None:
        return own
    if name not in itm.models.__all__:
        raise ValueError(
            f"{name!r} is not a model of this library ({', '.join(itm.models.__all__)}); to load "
            "your own class, pass model_class='your.module.YourMatcher' (in Python also "
            "YourMatcher.from_pretrained(FOLDER))"
        )
    return getattr(itm.models, name)


def _without_files(arguments: dict[str, Any], path: Path) -> dict[str, Any]:
    """Leave out the files that a matcher was built from: the weights hold their content.

    A pretrained text encoder is rebuilt from its stored configuration.

    Raises:
        ValueError: the text encoder names a folder or a model of the hub, but no configuration.
    """
    arguments = {k: v for k, v in arguments.items() if k != "concept_vectors"}
    text = arguments.get("text")
    if isinstance(text, dict):
        if text.get("path") is not None and not text.get("config"):
            raise ValueError(
                f"{path} asks to read its text encoder from {text['path']!r}, a place that the "
                "file chooses; nothing was read from there. Expected the encoder's configuration "
                "(arguments.text.config), which `save_pretrained` and training write"
            )
        text = {k: v for k, v in text.items() if k != "path"}
        arguments["text"] = _without_downloads(text)
    return arguments


def _without_downloads(options: Any) -> Any:
    """Leave out options that make `transformers` read further weights for a part of a model."""
    if isinstance(options, dict):
        return {k: _without_downloads(v) for k, v in options.items() if "backbone" not in str(k)}
    return [_without_downloads(x) for x in options] if isinstance(options, list) else options


def _check_sizes(
    kind: type[Matcher], arguments: dict[str, Any], tensors: dict[str, Tensor], path: Path
) -> None:
    """Build the matcher on the meta device, without memory for its weights, and compare shapes.

    Raises:
        ValueError: the arguments need other weights than the file holds.
    """
    most = 4 * len(tensors) + 64  # some parameters are replaced while they are made
    made = 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made > most:
            raise ValueError(f"{path}: its arguments need more weights than the file holds")

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            empty = kind(**arguments, loss=None)
    finally:
        hook.remove()
    check_fit(empty, tensors, str(path))
