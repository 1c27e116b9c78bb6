"""Explain a wrong option after a command has failed: an unknown name, a word in place of a number.

Hydra's own message advises "to append to your config use +key", which would turn a misspelt option
into one without effect.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.utils import get_object
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from itm.app.arguments import config_dir
from itm.app.choices import default_choices, group_files
from itm.app.config import CONF, compose
from itm.app.quoting import quote
from itm.utils.extras import install

# Plugins of Hydra that a choice of sweep= needs.
PLUGINS = {
    "joblib": install("sweep"),
    "optuna": install("sweep"),
    "submitit_slurm": "pip install hydra-submitit-launcher",
}


def diagnose(error: Exception, command: str, arguments: Sequence[str]) -> str | None:
    """Explain in one line which option made a command fail; None if no option explains it.

    Args:
        error: the error that ended the command.
        command: "train", "evaluate", ...; names the configuration.
        arguments: the command line.
    """
    if isinstance(error, MissingConfigException):
        return _missing_file(error)
    if isinstance(error, OSError | ImportError):
        return None  # the message says what is wrong
    try:
        options = OverridesParser.create().parse_overrides(
            [a for a in arguments if "=" in a and a[0] not in "-+~"]
        )
        default = _options_of(command, options, arguments)
    except (HydraException, OmegaConfBaseException):
        return None
    unknown = isinstance(error, ConfigCompositionException)
    for option in options:
        key = option.get_key_element()
        if key.startswith("hydra"):
            continue
        found = _unknown(default, key, command) if unknown else _wrong_kind(default, option)
        if found:
            return found
    return None


def _missing_file(error: MissingConfigException) -> str | None:
    """Explain a name that a group does not have."""
    group, _, given = str(error.missing_cfg_file).rpartition("/")
    if given in PLUGINS:
        return f"this sweep needs a plugin of Hydra: {PLUGINS[given]}"
    if not error.options:
        return None
    near = get_close_matches(given, error.options, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    choices = ", ".join(name for name in error.options if name != "base")
    return f"there is no {group}={given}; {hint}choose from {choices}"


def _options_of(
    command: str, options: Sequence[Override], arguments: Sequence[str]
) -> dict[str, Any]:
    """List what the chosen files offer, by full name: loss.margin before loss, and _target_."""
    groups = default_choices(command)
    chosen = [
        str(o.input_line) for o in options if o.key_or_group in groups and not o.is_sweep_override()
    ]
    if (own := config_dir(arguments)) is not None:
        chosen.append(f"hydra.searchpath=[{quote(f'init=file://{own}')[5:]}]")
    cfg = compose(chosen, command)
    flat = _flat(OmegaConf.to_container(cfg))  # type: ignore[arg-type]
    # A class may be a reference, such as ${optimizer_class}.
    return {k: OmegaConf.select(cfg, k) if k.endswith("._target_") else flat[k] for k in flat}


def _flat(node: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if not str(key).startswith("_") or key == "_target_":
            flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
            flat[f"{prefix}{key}"] = value
    return flat


def _unknown(default: dict[str, Any], key: str, command: str) -> str | None:
    """Explain a name that the configuration does not have."""
    group, _, last = key.rpartition(".")
    if key in default or key in default_choices(command) or last.startswith("_"):
        return None
    target = default.get(f"{group}._target_")
    if target is not None and _parameter(target, last) is not None:
        return f"{key} is not among the options of {group}, but {target} takes it: write +{key}=..."
    named = [name for name in default if not name.endswith("_target_")]
    if owners := _owners(group, last):
        return f"{key} is an option of {' and '.join(f'{group}={name}' for name in owners)} only"
    prefix = f"{group}." if isinstance(default.get(group), dict) else ""
    inside = [name.removeprefix(prefix) for name in named if name.startswith(prefix)]
    near = [name for name in named if name.rpartition(".")[2] == last]
    near += [prefix + name for name in get_close_matches(last if prefix else key, inside, n=1)]
    near += [] if prefix else get_close_matches(key, named, n=1, cutoff=0.7)
    if near:
        return f"there is no option {key}; did you mean {near[0]}?"
    listed = [name.removeprefix(prefix) for name in named if name.startswith(prefix)]
    options = ", ".join(name for name in listed if "." not in name)
    return f"there is no option {key}; {prefix[:-1] or 'options'}: {options}"


def _owners(group: str, option: str) -> list[str]:
    """List the files of a group that have an option, such as loss=sam for temperature."""
    if not group or not Path(CONF, group).is_dir():
        return []
    files = {name: OmegaConf.load(Path(CONF, group, f"{name}.yaml")) for name in group_files(group)}
    return [name for name, node in files.items() if option in node]


def _parameter(target: str, argument: str) -> inspect.Parameter | None:
    """Find an argument of a class or function."""
    try:
        return inspect.signature(get_object(target)).parameters.get(argument)
    except (ValueError, TypeError, HydraException, ImportError):
        return None


def _wrong_kind(default: dict[str, Any], option: Override) -> str | None:
    """Explain a word in place of a number, or a fraction in place of a whole number."""
    key = option.get_key_element()
    usual, given = default.get(key), None if option.is_sweep_override() else option.value()
    if given is None or "${" in str(given) or key not in default:
        return None
    group, _, last = key.rpartition(".")
    taken = (
        _parameter(default[f"{group}._target_"], last) if f"{group}._target_" in default else None
    )
    kinds = "" if taken is None else str(taken.annotation)
    text = f"{key}={option.get_value_element_as_str()}"
    if isinstance(usual, str) and usual.startswith("${"):
        usual = default.get(usual[2:-1])
    if isinstance(usual, bool):
        wrong = isinstance(given, str) and "str" not in kinds
        return f"{text}: expected true or false" if wrong else None
    if not isinstance(usual, int | float) or "str" in kinds or "Any" in kinds:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float):
        return f"{text}: expected a number, such as {usual}"
    if isinstance(usual, int) and isinstance(given, float) and "float" not in kinds:
        return f"{text}: expected a whole number, such as {usual}"
    return None
