"""Check the types of options before a command builds anything, such as `max_epochs=two`.

What an option may be follows from the class that takes it, if that is annotated, otherwise from its
default in `conf/`.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from itm.app.arguments import search_path
from itm.app.choices import default_choices
from itm.app.config import compose
from itm.app.quoting import PATHS, TEXT
from itm.utils.options import argument_types

NULLABLE = ("step_size", "scheduler.step_size")  # although StepLR does not take None
# Options that no class takes, and whose default does not say everything.
WITHOUT_CLASS = {
    **dict.fromkeys(("chunk_size", "memory_budget", "size", "regions"), "int | None"),
    "warmup_epochs": "float",
}
# Words of annotations that decide about the type; one with others, such as str or Path, does not.
NUMBERS = {"int", "float", "bool"}
DECIDING = NUMBERS | {
    "None", "NoneType", "Optional", "Union", "typing", "class", "list", "List", "tuple", "Tuple",
    "Sequence", "collections", "abc", "torch", "Tensor",
}  # fmt: skip


class Taken(NamedTuple):
    """What an option takes.

    Attributes:
        default: its value in `conf/`.
        words: words of its annotation, such as {"int", "None"}; empty if it has none.
    """

    default: Any
    words: frozenset[str]


def check_types(command: str, arguments: Sequence[str]) -> None:
    """Check every value on a command line, those of a sweep included.

    Raises:
        ValueError: a word in place of a number, a fraction in place of a whole number, nan or
            infinity, or the like.
    """
    try:
        _check_finite(arguments)
        options = parse(arguments)
        given = [(option, value) for option in options for value in _values(option, command)]
        if not given:  # the usual case, which need not wait for the configuration
            return
        known = options_of(command, options, arguments)
    except (HydraException, OmegaConfBaseException):
        return  # Hydra reports it next
    for option, value in given:
        name = option.get_key_element()
        read = _read_variables(value)
        if name in known and (expected := _mismatch(name, read, _taken(name, known))):
            if read is not value and not isinstance(read, str):
                raise ValueError(f"{name}={value} is {read!r}: expected {expected}")
            if read is not value:
                raise ValueError(
                    f"{name}={value} is the text {read!r}, expected {expected}: write {name}=$NAME "
                    f"for your shell, or '{name}=\"${{oc.decode:${{oc.env:NAME}}}}\"' for Hydra"
                )
            if option.is_sweep_override():
                text = "null" if value is None else value
            else:
                text = option.get_value_element_as_str()
            raise ValueError(f"{name}={text}: expected {expected}")


def _read_variables(value: Any) -> Any:
    """Look up a value that refers to the environment; any other, or a missing one, as it is."""
    if not isinstance(value, str) or "${oc.env:" not in value:
        return value
    try:
        return OmegaConf.create([value])[0]
    except OmegaConfBaseException:
        return value  # Hydra reports it next


def _check_finite(arguments: Sequence[str]) -> None:
    """Refuse nan and infinity, also in lists and in options that a command line adds.

    Raises:
        ValueError: a value is not finite.
    """
    texts = [a for a in arguments if "=" in a and a[0] not in "-~"]
    for option in OverridesParser.create().parse_overrides(texts):
        name = option.get_key_element().lstrip("+")
        for value in map(_read_variables, _given(option)):
            if not name.startswith("hydra.") and not _is_finite(value):
                raise ValueError(f"{name}={value} must be a finite number")


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def parse(arguments: Sequence[str]) -> list[Override]:
    """Parse the options of a command line that set a value and add no new name."""
    texts = [a for a in arguments if "=" in a and a[0] not in "-+~"]
    return OverridesParser.create().parse_overrides(texts)


def options_of(
    command: str, options: Sequence[Override], arguments: Sequence[str]
) -> dict[str, Any]:
    """List what the chosen files offer, by full name: loss.margin before loss, and _target_."""
    groups = default_choices(command)
    chosen = []
    for option in options:
        if option.key_or_group not in groups or option.key_or_group == "sweep":
            continue
        if option.is_sweep_override():  # any of its values: options of the others are unknown
            first = next(iter(_swept(option)), None)
            chosen += [] if first is None else [f"{option.key_or_group}={first}"]
        else:
            chosen.append(str(option.input_line))
    cfg = compose([*chosen, *search_path(arguments)], command)
    flat = _flat(OmegaConf.to_container(cfg))  # type: ignore[arg-type]
    # A class may be a reference, such as ${optimizer_class}.
    return {k: OmegaConf.select(cfg, k) if k.endswith("._target_") else flat[k] for k in flat}


def arguments_of(target: str) -> dict[str, Any]:
    """Return the annotations of the arguments of a class or function; {} if it cannot be found.

    Fields of groups count as arguments, see `itm.utils.options`.
    """
    try:
        return argument_types(get_object(target))
    except (ValueError, TypeError, HydraException, ImportError):
        return {}


def argument(target: str, name: str) -> Any:
    """Return the annotation of an argument of a class or function; None if it lacks it."""
    return arguments_of(target).get(name)


def _swept(option: Override) -> Iterator[Any]:
    return option.sweep_iterator(transformer=Transformer.identity)


def _given(option: Override) -> list[Any]:
    """List the values of an option: one, or those of a sweep."""
    if not option.is_sweep_override():
        return [option.value()]
    return list(_swept(option)) if option.is_discrete_sweep() else []


def _values(option: Override, command: str) -> list[Any]:
    """List the values of an option that may have a wrong type; whole numbers rarely do."""
    name = option.get_key_element()
    if name in (*PATHS, *TEXT) or name.startswith("hydra.") or name in default_choices(command):
        return []
    return [x for x in _given(option) if type(x) is not int and not isinstance(x, dict)]


def _taken(name: str, known: Mapping[str, Any]) -> Taken:
    default = known[name]
    group, _, last = name.rpartition(".")
    if isinstance(default, str) and (reference := re.fullmatch(r"\$\{([\w.]+)\}", default)):
        default = known.get(reference[1])
    # lr is an option of its own, which optimizer.lr=${lr} hands to a class.
    owner = next((n for n, x in known.items() if x == f"${{{name}}}" and "." in n), name)
    group, _, last = owner.rpartition(".")
    target = known.get(f"{group}._target_")
    found = None if target is None else argument(target, last)
    text = "" if found in (None, inspect.Parameter.empty) else str(found)
    if name in WITHOUT_CLASS:
        text = WITHOUT_CLASS[name]
    elif not text and target is not None and isinstance(default, int | float):
        text = "float | None"  # a class without annotations: its default may be whole by chance
    return Taken(default, frozenset(re.findall(r"\w+", text)))


def _mismatch(name: str, value: Any, taken: Taken) -> str | None:
    """Say what was expected in place of a value; None if the value may be right."""
    default, words = taken
    if "${" in str(value):
        return None
    decided = bool(words) and words <= DECIDING
    if value is None:
        wrong = decided and not words & {"None", "NoneType", "Optional"}
        wrong = wrong and default is not None and name not in NULLABLE
        return _expected(taken) if wrong else None
    text = isinstance(value, str)
    if isinstance(default, bool) or (decided and words & NUMBERS == {"bool"}):
        if text and words & {"Literal"} and value not in words:
            return "true or false"  # of Lightning, deterministic: "warn"
        return "true or false" if text and (decided or not words) else None
    if not isinstance(default, int | float) and not (decided and words & NUMBERS):
        return None
    if words and not decided:  # a str, a Path or an object may be right, too
        return None if text or words & {"str", "Any"} else _kind(value, taken)
    return _kind(value, taken)


def _kind(value: Any, taken: Taken) -> str | None:
    default, words = taken
    lists = words & {"list", "List", "tuple", "Tuple", "Sequence"}
    if isinstance(value, float):
        whole = isinstance(default, int) if not words else "float" not in words
        return _expected(taken) if whole and not isinstance(default, float) else None
    if isinstance(value, list):
        return None if lists else _expected(taken)
    if isinstance(value, bool):
        return None if "bool" in words else _expected(taken)
    return _expected(taken)


def _expected(taken: Taken) -> str:
    default, words = taken
    number = isinstance(default, int | float) and not isinstance(default, bool)
    if isinstance(default, bool):
        return "true or false"
    if not number and words & {"list", "List", "tuple", "Tuple", "Sequence"}:
        return "a number or a list of numbers"
    fraction = isinstance(default, float) or "float" in words or "Tensor" in words
    kind = "a number" if fraction else "a whole number"
    return f"{kind}, such as {default}" if number else kind


def _flat(node: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if not str(key).startswith("_") or key == "_target_":
            flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
            flat[f"{prefix}{key}"] = value
    return flat
