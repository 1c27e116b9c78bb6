"""Let constructors accept options in groups and also one by one.

A group is a parameter whose default is a frozen dataclass: it documents, checks and bundles the
options of one part. Configurations, checkpoints and scripts name options one by one, so a
constructor under `flat_keywords` accepts both forms:

Examples:
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Size:
    ...     width: int = 3
    ...     height: int = 4
    >>> class Box:
    ...     @flat_keywords
    ...     def __init__(self, name: str, size: Size = Size()):
    ...         self.options = flat({"name": name, "size": size})
    >>> Box("a", size=Size(height=1)).options == Box("a", height=1).options
    True
    >>> Box("a", height=1).options
    {'name': 'a', 'width': 3, 'height': 1}
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any


def flat_keywords(init: Callable[..., None]) -> Callable[..., None]:
    """Let an `__init__` accept the fields of its groups as keywords.

    A keyword replaces one field of the given group, or of the default group if none is given. The
    signature shows the groups.
    """
    defaults = {name: p.default for name, p in inspect.signature(init).parameters.items()}
    groups = {name: default for name, default in defaults.items() if is_dataclass(default)}
    owners = {field.name: name for name, group in groups.items() for field in fields(group)}

    @functools.wraps(init)
    def accept(self: Any, *args: Any, **arguments: Any) -> None:
        changes: dict[str, dict[str, Any]] = {}
        for option in owners.keys() & arguments.keys():
            changes.setdefault(owners[option], {})[option] = arguments.pop(option)
        for name, values in changes.items():
            arguments[name] = replace(arguments.get(name, groups[name]), **values)
        init(self, *args, **arguments)

    return accept


def argument_types(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotation of each argument of a function or class, and of each field of a group.

    Without an annotation: `inspect.Parameter.empty`.

    Raises:
        ValueError: the signature is unknown, as of some functions in C.
    """
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if is_dataclass(parameter.default):
            found |= {field.name: field.type for field in fields(parameter.default)}
        found[name] = parameter.annotation
    return found


def flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor by name, with each group replaced by its fields.

    Args:
        arguments: such as `locals()` on the constructor's first line; `self` is left out.
    """
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        if is_dataclass(value):
            found |= {field.name: getattr(value, field.name) for field in fields(value)}
        elif name not in ("self", "__class__"):
            found[name] = value
    return found
