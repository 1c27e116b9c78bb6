"""Rewrite choices that Hydra does not understand: null for a group, another class of a node."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from itm.app.config import CONF
from itm.utils.checks import alternatives

# What null stands for; None = leave the argument out. Other groups need a choice.
NULL = {"scheduler": "scheduler=none", "recipe": "~recipe", "text": None, "sweep": None}

# One + adds an option and is an error if a file lists it; two do either.
PLUS = re.compile(r"^\+(?=(?!hydra\.)\w+\.)")

RESUMED = re.compile(r"\+*resume=(?!(true|false|null)$|.*\.ckpt$)", re.IGNORECASE)  # a run folder

# Values that recipes set at the top level -> the option that refers to each.
SHARED = {
    "max_epochs": "trainer.max_epochs",
    "gradient_clip_val": "trainer.gradient_clip_val",
    "optimizer_class": "optimizer._target_",
    "weight_decay": "optimizer.weight_decay",
    "lr": "optimizer.lr",
    "step_size": "scheduler.step_size",
    "gamma": "scheduler.gamma",
    "margin": "loss.margin",
}


def rewrite_choices(arguments: Sequence[str], command: str = "train") -> list[str]:
    """Rewrite the choices of a command line.

    Raises:
        ValueError: null for a group that needs a choice, or that a resumed run has recorded.

    Examples:
        >>> rewrite_choices(["scheduler=null", "scheduler._target_=X", "scheduler.T_max=9"])
        ['~scheduler', '+scheduler._target_=X', '+scheduler.T_max=9']
    """
    out = [PLUS.sub("++", argument) for argument in _last_choices(arguments, command)]
    for node in ("scheduler", "optimizer"):
        out = _replace_node(out, node)
    if "text=null" in out and any(RESUMED.match(argument) for argument in out):
        raise ValueError(
            "a resumed run keeps its text encoder, so text=null would have no effect: leave it out"
        )
    return [new for a in out if (new := _without_null(a, command)) is not None]


def _last_choices(arguments: Sequence[str], command: str) -> list[str]:
    """Leave out each choice of a group that a later one replaces, because null replaces nothing.

    Values in braces, such as loss={margin: 0.1}, replace no choice: Hydra merges them into it.
    """
    out, chosen = [], set()
    for argument in reversed(arguments):
        group, equals, value = argument.lstrip("+").partition("=")
        if equals and group in chosen:
            continue
        out.append(argument)
        if equals and group in default_choices(command) and value[:1] != "{":
            chosen.add(group)
    return out[::-1]


def check_recipe(arguments: Sequence[str], folders: Iterable[str]) -> None:
    """Check that a recipe that is given exists: Hydra passes over an optional one that does not.

    Args:
        arguments: a command line.
        folders: of configurations.

    Raises:
        ValueError: no folder has the recipe.
    """
    given = [a.partition("=")[2].strip("'\"") for a in arguments if re.match(r"\+*recipe=", a)]
    names = re.split(r"[\s,]+", given[-1].strip("[] ")) if given else []
    places = [Path(folder, "recipe") for folder in folders]
    known = sorted(
        path.relative_to(place).with_suffix("").as_posix()
        for place in places
        for path in place.rglob("*.yaml")
    )
    for name in names:
        if name not in ("", "null") and name.removesuffix(".yaml") not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; choose from {', '.join(known)}"
            raise ValueError(f"there is no recipe={name}{hint}")


@cache
def default_choices(command: str = "train") -> dict[str, str | None]:
    """Map each group of a command to the file that it uses by default."""
    path = Path(CONF, f"{command}.yaml")
    if not path.is_file():
        return {}
    defaults: Any = OmegaConf.to_container(OmegaConf.load(path)).get("defaults", [])  # type: ignore[union-attr]
    pairs = [pair for item in defaults if isinstance(item, dict) for pair in item.items()]
    return {group.split()[-1]: choice for group, choice in pairs if "override" not in group}


def group_files(group: str) -> list[str]:
    """List the names that `group=` takes."""
    names = sorted(path.stem for path in Path(CONF, group).glob("*.yaml"))
    return [name for name in names if name != "base"]  # other files extend base


def _without_null(argument: str, command: str) -> str | None:
    group, _, value = argument.partition("=")
    if group[:1] == "~" and group[1:] in set(default_choices(command)) - {*NULL, "optimizer"}:
        files = group_files(group[1:])
        raise ValueError(f"{group[1:]} must be {alternatives(files)}, and cannot be left out")
    values = [x.strip() for x in value.split(",")]
    if "null" not in values or group not in default_choices(command):
        return argument
    if group not in NULL:
        raise ValueError(f"{group} must be {alternatives(group_files(group))}, got null")
    if len(values) == 1:
        return NULL[group]
    named = str(NULL[group]).removeprefix(f"{group}=")
    if named not in group_files(group):
        raise ValueError(f"{argument}: null cannot be one of several values; run it on its own")
    every = dict.fromkeys(named if x == "null" else x for x in values)  # none,null run once
    return f"{group}={','.join(every)}"


def _replace_node(arguments: list[str], node: str) -> list[str]:
    """Replace the class that the group chose by another one.

    Hydra merges `scheduler={_target_: X}` and `scheduler._target_=X` into the chosen scheduler,
    whose arguments X does not take. Arguments of an optimiser are merged, except that new ones need
    no `+`.
    """
    whole = [a for a in arguments if re.match(rf"\+*{node}=\{{.*_target_", a)]
    target = [a for a in arguments if re.match(rf"\+*{node}\._target_=", a)]
    if not whole and not target:
        return arguments
    mine = [a for a in arguments if re.match(rf"[+~]*{node}[.=]", a) or a == f"~{node}"]
    at = arguments.index(mine[0])
    out = [a for a in arguments if a not in mine]
    plain = [a.lstrip("+") for a in mine if not a.startswith("~")]
    steps = any(re.search(r"[.=]StepLR$", a) for a in target)  # takes the default's arguments
    if whole or (node == "scheduler" and not steps):
        keep = [a for a in plain if not re.match(rf"{node}=[^{{]", a)]
        out[at:at] = [f"~{node}", *(f"+{a}" for a in keep)]
    else:
        less = [a for a in mine if a.startswith(f"~{node}.")]
        out[at:at] = [*(a if re.match(rf"{node}=", a) else f"++{a}" for a in plain), *less]
    return out
