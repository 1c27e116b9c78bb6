"""Explain an unknown name of an option or of a choice after a command has failed.

Hydra's own message advises "to append to your config use +key", which would turn a misspelt option
into one without effect.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from itm.app.arguments import value_of
from itm.app.choices import default_choices, group_files
from itm.app.config import CONF
from itm.app.option_types import argument, arguments_of, options_of, parse
from itm.utils.extras import install

# Plugins of Hydra that a choice of sweep= needs.
PLUGINS = {
    "joblib": install("sweep"),
    "optuna": install("sweep"),
    "submitit_slurm": "pip install hydra-submitit-launcher",
}

# Names that other tools give to these options.
ELSEWHERE = {
    "device": "trainer=gpu or trainer=cpu",
    "gpus": "trainer=gpu or trainer.devices=N",
    "learning_rate": "lr=RATE",
    "output_dir": "hydra.run.dir=FOLDER",
    "dataset": "data=NAME",
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
    if not isinstance(error, ConfigCompositionException):
        return None
    try:
        options = parse(arguments)
        default = options_of(command, options, arguments)
    except (HydraException, OmegaConfBaseException):
        return None
    for option in options:
        key = option.get_key_element()
        if not key.startswith("hydra") and (found := _unknown(default, key, command)):
            return found
    sweep = value_of(arguments, "sweep")
    for key in re.findall(r"Could not override '([^']+)'", str(error)) if sweep else []:
        if found := _unknown(default, key, command):
            return f"sweep={sweep} varies {key}, but {found}"
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


def _unknown(default: dict[str, Any], key: str, command: str) -> str | None:
    """Explain a name that the configuration does not have."""
    group, _, last = key.rpartition(".")
    if key in default or key in default_choices(command) or last.startswith("_"):
        return None
    target = default.get(f"{group}._target_")
    if target is not None and argument(target, last) is not None:
        return f"{key} is not among the options of {group}, but {target} takes it: write +{key}=..."
    named = [name for name in default if not name.endswith("_target_")]
    if owners := _owners(group, last):
        return f"{key} is an option of {' and '.join(f'{group}={name}' for name in owners)} only"
    if command == "train" and key in ELSEWHERE:
        return f"there is no option {key}; did you mean {ELSEWHERE[key]}?"
    prefix = f"{group}." if isinstance(default.get(group), dict) else ""
    inside = [name.removeprefix(prefix) for name in named if name.startswith(prefix)]
    near = [name for name in named if name.rpartition(".")[2] == last]
    near += [prefix + name for name in get_close_matches(last if prefix else key, inside, n=1)]
    near += [prefix + name for name in inside if last in name.split("_")] if prefix else []
    near += [] if prefix else get_close_matches(key, named, n=1, cutoff=0.7)
    if near:
        return f"there is no option {key}; did you mean {near[0]}?"
    listed = [name.removeprefix(prefix) for name in named if name.startswith(prefix)]
    more = {} if target is None else arguments_of(target)  # of a class whose file lists none
    if near := get_close_matches(last, more, n=1):
        return (
            f"there is no option {key}; did you mean +{group}.{near[0]}=..., which {target} takes?"
        )
    if prefix and not inside and not more:
        return f"{group} lists no options of its own: write +{key}=..."
    options = [name for name in listed if "." not in name]
    options += [f"+{name}" for name in more if name not in options]
    return f"there is no option {key}; {prefix[:-1] or 'options'}: {', '.join(options)}"


def _owners(group: str, option: str) -> list[str]:
    """List the files of a group that have an option, such as loss=sam for temperature."""
    if not group or not Path(CONF, group).is_dir():
        return []
    files = {name: OmegaConf.load(Path(CONF, group, f"{name}.yaml")) for name in group_files(group)}
    return [name for name, node in files.items() if option in node]
