"""Explain a wrong option after a command has failed: an unknown name, a word in place of a number.

Hydra's own message advises "to append to your config use +key", and then a misspelt option would
silently do nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.utils import get_object
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from itm.app.config import compose

GROUPS = ("model", "loss", "data", "text", "trainer", "callbacks", "logger")


def diagnose(error: Exception, main: Callable[[], Any], arguments: Sequence[str]) -> str | None:
    """Explain in one line which option made a command fail; None if no option explains it.

    Args:
        error: the error that ended the command.
        main: the command's Hydra main; its file has the same name as its configuration.
        arguments: the command line.
    """
    if isinstance(error, MissingConfigException) and error.options:
        group, _, given = str(error.missing_cfg_file).rpartition("/")
        return f"there is no {group}={given}; {_choose(given, error.options)}"
    name = Path(inspect.getfile(inspect.unwrap(main))).stem
    try:
        options = OverridesParser.create().parse_overrides(
            [a for a in arguments if "=" in a and a[0] not in "-+~"]
        )
        choices = [str(o.input_line) for o in options if _is_choice(o)]
        default = _flat(OmegaConf.to_container(compose(choices, name)))  # type: ignore[arg-type]
    except (HydraException, OmegaConfBaseException):
        return None
    for option in options:
        key = option.get_key_element()
        if key.startswith("hydra"):
            continue
        found = _unknown(default, key) if isinstance(error, ConfigCompositionException) else None
        found = found or _no_number(default, option)
        if found:
            return found
    return None


def _is_choice(option: Override) -> bool:
    """Tell whether an option picks a file of a group, such as model=scan, with its own options."""
    return option.key_or_group in GROUPS and not option.is_sweep_override()


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """List options by full name, such as loss.margin before loss; of private ones _target_."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if not str(key).startswith("_") or key == "_target_":
            flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
            flat[f"{prefix}{key}"] = value
    return flat


def _unknown(default: dict[str, Any], key: str) -> str | None:
    """Explain a name that the configuration does not have."""
    group, _, last = key.rpartition(".")
    if key in ("recipe", "sweep", *default) or last.startswith("_"):
        return None
    target = default.get(f"{group}._target_")
    if target is not None and _takes(target, last):
        return f"{key} is not among the options of {group}, but {target} takes it: write +{key}=..."
    named = [name for name in default if not name.endswith("_target_")]
    same = [name for name in named if name.rpartition(".")[2] == last]
    near = same or get_close_matches(key, named, n=1, cutoff=0.7)
    if near:
        return f"there is no option {key}; did you mean {near[0]}?"
    prefix = f"{group}." if isinstance(default.get(group), dict) else ""
    listed = [name.removeprefix(prefix) for name in named if name.startswith(prefix)]
    options = ", ".join(name for name in listed if "." not in name)
    return f"there is no option {key}; {prefix[:-1] or 'options'}: {options}"


def _takes(target: str, argument: str) -> bool:
    """Whether a class or function has an argument of this name."""
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except (ValueError, TypeError, HydraException, ImportError):
        return False
    return argument in parameters


def _no_number(default: dict[str, Any], option: Override) -> str | None:
    """Explain a word where the default is a number."""
    key = option.get_key_element()
    usual = default.get(key)
    if isinstance(usual, bool) or not isinstance(usual, int | float) or option.is_sweep_override():
        return None
    given = option.value()
    if given is None or isinstance(given, int | float) or "${" in str(given):
        return None
    return f"{key}={option.get_value_element_as_str()}: expected a number, such as {usual}"


def _choose(given: str, options: Sequence[str]) -> str:
    near = get_close_matches(given, options, n=1)
    return f"{f'did you mean {near[0]}? ' if near else ''}choose from {', '.join(options)}"
