"""Define what a pickle may hold besides plain data: arrays and instances of named classes.

Classes and functions of this module stand for those that a pickle names; the originals are never
called. An array is rebuilt from the text of its type, its shape and its bytes.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

SCALARS = (str, bytes, int, float, bool, type(None))
DTYPE = re.compile(r"[<>|=]?([biufc]\d{1,2}|[SU]\d{1,9})")  # no objects, records or dates

Calls = Mapping[str, Callable[..., Any]]  # stand-ins by the name of the original


class Name(NamedTuple):
    """The name of a function or class in a pickle; it is never looked up."""

    path: str


class Later:
    """A value that is complete only once the whole pickle has been read."""

    def value(self) -> Any:
        """Return the value.

        Raises:
            ValueError: the pickle did not describe one.
        """
        raise NotImplementedError

    def build(self, state: Any) -> None:
        """Take the state that the pickle would pass to `__setstate__`."""
        raise pickle.UnpicklingError(f"a {type(self).__name__} takes no further state")

    def cost(self) -> int:
        """Count the bytes that the value will take beside those of the pickle."""
        return 0


class Instance(Later):
    """An instance of a class that the caller of the reader accepts.

    Attributes:
        name: of the class, with its module.
        fields: attributes by name.
    """

    def __init__(self, name: str):
        self.name = name
        self.fields: dict[str, Any] = {}

    def build(self, state: Any) -> None:
        """Take attributes by name."""
        if type(state) is not dict or not all(type(key) is str for key in state):
            raise pickle.UnpicklingError(f"attributes of {self.name} must be a dict by name")
        self.fields.update(state)

    def value(self) -> Instance:
        """Return the instance itself."""
        return self


class _Dtype(Later):
    def __init__(self, text: Any, *_: Any):
        text = text.decode("ascii") if type(text) is bytes else text
        if type(text) is not str or not DTYPE.fullmatch(text):
            raise pickle.UnpicklingError(f"arrays of type {str(text)[:20]!r} are not read")
        self.dtype = np.dtype(text)

    def build(self, state: Any) -> None:
        """(version, byte order, subarray, names, fields, item size, alignment, flags)."""
        if type(state) is not tuple or len(state) < 5 or any(x is not None for x in state[2:5]):
            raise pickle.UnpicklingError("arrays of records are not read")
        order: Any = state[1].decode("ascii") if type(state[1]) is bytes else state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("the type of an array has no known byte order")
        self.dtype = self.dtype.newbyteorder(order)

    def value(self) -> np.dtype:
        return self.dtype


class _Array(Later):
    """An array: made empty, then given version, shape, type, order and bytes."""

    def __init__(self, *state: Any):
        self.state = state

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise pickle.UnpicklingError("an array without shape, type and bytes")
        self.state = state[1:]

    def cost(self) -> int:
        data = self.state[-1] if self.state else b""
        return len(data) if type(data) in (bytes, bytearray, str) else 0

    def value(self) -> np.ndarray:
        if len(self.state) != 4:
            raise pickle.UnpicklingError("an array without content")
        shape, dtype, fortran, data = self.state
        return _array(shape, dtype, data, "F" if fortran is True or fortran == 1 else "C")


class _Scalar(Later):
    def __init__(self, dtype: Any, data: Any = b""):
        self.parts = dtype, data

    def value(self) -> Any:
        return _array((), *self.parts, "C")[()]


def _array(shape: Any, dtype: Any, data: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("an array without a type")
    if type(shape) is not tuple or len(shape) > 32 or not all(is_size(n) for n in shape):
        raise pickle.UnpicklingError(f"{str(shape)[:80]} is not the shape of an array")
    if type(data) is str:  # bytes of Python 2
        data = data.encode("latin1")
    if type(data) not in (bytes, bytearray) or order not in ("C", "F"):
        raise pickle.UnpicklingError("an array without bytes")
    size = math.prod(shape) * dtype.dtype.itemsize
    if len(data) != size or not dtype.dtype.itemsize:
        raise pickle.UnpicklingError(
            f"an array {shape} of {dtype.dtype} needs {size} bytes, the pickle holds {len(data)}"
        )
    flat: np.ndarray = np.frombuffer(data, dtype.dtype)
    whole: np.ndarray = flat.reshape(shape, order=order).copy(order="K")
    return whole


def is_size(number: Any) -> bool:
    """Whether a value of a file is a whole number from 0 to 2**62."""
    return type(number) is int and 0 <= number < 2**62


def _encode(text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise pickle.UnpicklingError("bytes are expected as text in latin1")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


def _make_dict(items: Any = ()) -> dict[Any, Any]:
    pairs = list(items.items()) if type(items) is dict else items
    if type(pairs) not in (list, tuple) or not all(
        type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs
    ):
        raise pickle.UnpicklingError("a dict is expected as a list of pairs")
    return {checked_key(key): value for key, value in pairs}


def _make_set(items: Any = ()) -> set[Any]:
    if type(items) not in (list, tuple, set):
        raise pickle.UnpicklingError("a set is expected as a list")
    return {checked_key(item) for item in items}


def checked_key(key: Any) -> Any:
    """Refuse keys other than numbers and strings: hashing deep tuples can end the process."""
    if type(key) not in SCALARS:
        raise pickle.UnpicklingError(f"a key of type {type(key).__name__}")
    return key


PLAIN: Calls = {
    "_codecs.encode": _encode,
    "builtins.bytes": _empty_bytes,
    "builtins.set": _make_set,
    "collections.OrderedDict": _make_dict,
    "collections.Counter": _make_dict,
}
ARRAYS: Calls = {
    **PLAIN,
    "numpy.dtype": _Dtype,
    **{f"numpy.{core}.multiarray._reconstruct": lambda *_: _Array() for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _Scalar for core in ("core", "_core")},
    **{
        f"numpy.{core}.numeric._frombuffer": lambda data, dtype, shape, order: _Array(
            shape, dtype, order == "F", data
        )
        for core in ("core", "_core")
    },
}
WORDS = {"numpy.ndarray"}  # names that occur as arguments only
