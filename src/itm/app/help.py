"""Describe the options of a command: defaults, and meanings from the comments in `conf/`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from itm.app.arguments import key_of, search_path
from itm.app.choices import default_choices, group_files
from itm.app.config import CONF, compose
from itm.app.data_options import is_read
from itm.app.quoting import as_typed

LINE = re.compile(r"( *)(\w+):(?: +(?:[^#\s].*?)?)?(?: +# *(.*))?")
HELP = ("-h", "--help")
SWEEP = "  -m OPTION=A,B        run once for each value, with a table at the end\n"
NOTES = f"""
Also:
{SWEEP}  --config-dir DIR     read further choices of the groups from a folder of your own
  --cfg job            print the configuration instead of running
  --hydra-help         options of Hydra itself
  --version            print the version
  +GROUP.NAME=VALUE    pass another argument of the constructor
  ITM_TRACEBACK=1      environment variable: print the whole traceback of an error"""


def help_page(command: str, arguments: Sequence[str]) -> str:
    """Describe the options of a command, with the defaults that the given choices lead to.

    Args:
        command: "train", "evaluate", ...
        arguments: of the command line, such as model=scan.
    """
    cfg, choices = _compose(command, [a for a in arguments if a not in HELP])
    known = meanings(Path(CONF, f"{command}.yaml"), "")
    intro = _intro(Path(CONF, f"{command}.yaml"))
    rows: dict[str, list[str]] = {
        "": [],
        **{group: [] for group in default_choices(command) if group in cfg},
    }
    for group, choice in choices.items():
        path = Path(CONF, group, f"{choice}.yaml")
        if path.is_file():
            known |= meanings(path, group)
    for name in _names(OmegaConf.to_container(cfg)):
        if name.startswith("data.") and not is_read(command, name.removeprefix("data.")):
            continue  # of training only
        group = next((g for g in rows if g and name.startswith(f"{g}.")), "")
        option = f"  {name}={_value(cfg, name)}"
        meaning = known.get(name, "")
        rows[group].append(f"{option:<40} {meaning}".rstrip() if meaning else option)
    parts = [*intro, "", *rows.pop("")]
    for group in default_choices(command):
        files = group_files(group)
        parts += ["", f"{group}={choices.get(group) or 'null'}"]
        if group != "recipe":
            parts[-1] += f"    one of {', '.join(files)}"
        path = Path(CONF, group, f"{choices.get(group)}.yaml")
        parts += [f"  {line}" for line in (_intro(path) if path.is_file() else [])]
        parts += rows.get(group, [])
    notes = NOTES if command == "train" else NOTES.replace(SWEEP, "")
    return "\n".join([*parts, notes])


def _compose(command: str, arguments: Sequence[str]) -> tuple[DictConfig, dict[str, Any]]:
    """Compose a configuration; also return the file that each group uses."""
    options = [a for a in arguments if "=" in a and not a.startswith("-")]
    options = [a for a in options if not key_of(a).startswith("hydra.")]
    cfg = compose([*options, *search_path(arguments)], command, with_hydra=True)
    choices = dict(cfg.hydra.runtime.choices)
    node: Any = OmegaConf.to_container(cfg)
    del node["hydra"]
    return OmegaConf.create(node), choices


def _intro(path: Path) -> list[str]:
    """Return the comment at the beginning of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = lines[1:] if lines and lines[0].startswith("# @package") else lines
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.removeprefix("#").removeprefix(" ") for line in lines[:count]]


def meanings(path: Path, group: str) -> dict[str, str]:
    """Map the full names of options to the comments after them, inherited files included."""
    text = path.read_text(encoding="utf-8")
    package = re.match(r"# @package (\S+)", text)
    stack: list[str] = [group] if group else []
    if package is not None:
        stack = [] if package[1] == "_global_" else [package[1]]
    found: dict[str, str] = {}
    for parent in (yaml.safe_load(text) or {}).get("defaults", []) if group else []:
        if isinstance(parent, str) and path.with_name(f"{parent}.yaml").is_file():
            found |= meanings(path.with_name(f"{parent}.yaml"), group)
    start, depths = list(stack), [-1]
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if match is None:
            continue
        while len(match[1]) <= depths[-1]:
            depths.pop()
            stack.pop()
        depths.append(len(match[1]))
        stack.append(match[2])
        if match[3]:
            found[".".join(stack)] = match[3]
    assert stack[: len(start)] == start
    return found


def _names(node: Any, prefix: str = "") -> list[str]:
    """List options by full name, without keys that Hydra reads, such as _target_."""
    names = []
    for key, value in node.items():
        if str(key).startswith("_"):
            continue
        name = f"{prefix}{key}"
        names += _names(value, f"{name}.") if isinstance(value, dict) and value else [name]
    return names


def _value(cfg: DictConfig, name: str) -> str:
    """Format a value as on the command line; follow references that need no Hydra."""
    try:
        value = OmegaConf.select(cfg, name, throw_on_missing=True)
    except OmegaConfBaseException:
        raw: Any = OmegaConf.to_container(cfg)
        for key in name.split("."):
            raw = raw[key]
        value = "(required)" if raw == "???" else raw
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, list):  # objects by their class
        value = [x["_target_"] if isinstance(x, dict) and "_target_" in x else x for x in value]
    return as_typed(value)
