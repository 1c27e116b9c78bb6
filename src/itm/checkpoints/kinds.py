"""Compare the saved arguments of a matcher with the types that its constructor expects."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from itm.utils.options import argument_types

KINDS: dict[str, Any] = {
    "bool": (bool, np.bool_),
    "int": Integral,
    "float": Real,
    "str": str,
    "None": type(None),
}
LARGEST = 2**63  # of a whole number that torch takes


def check_kinds(kind: type, arguments: Mapping[str, Any], name: str) -> None:
    """Check each argument whose type is a number, a bool, a string or None.

    Without this check, a wrong argument would be noticed only when the matcher computes.

    Args:
        kind: class of the matcher.
        arguments: saved arguments by name; fields of groups stand beside the others.
        name: of the file, for messages.

    Raises:
        ValueError: an argument has another type, or is too large.
    """
    for argument, annotation in argument_types(kind).items():
        expected = _text(annotation)
        words = set(expected.split(" | "))
        if argument not in arguments or not words <= KINDS.keys():
            continue
        value = arguments[argument]
        fits = any(isinstance(value, KINDS[word]) for word in words)
        if isinstance(value, KINDS["bool"]):  # Python's bool is an int
            fits = "bool" in words
        elif isinstance(value, Integral):
            fits = fits and abs(int(value)) < LARGEST
        if not fits:
            raise ValueError(f"{name}: argument {argument}={value!r}, expected {expected}")


def _text(annotation: Any) -> str:
    """Write an annotation as in the source, whether or not Python has evaluated it."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
