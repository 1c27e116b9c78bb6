"""Read pickles of plain data, arrays and a few named classes without calling anything they name.

A pickle is a program: it names functions and calls them. This reader carries out only the
operations that build numbers, strings, lists, tuples, sets and dicts. A name never becomes the
object of that name. It stays a `Name`, and the only calls are those of functions in this package
that stand for the original: an array is rebuilt from the string of its type, its shape and its
bytes, and an instance of a known class becomes an `Instance` with its attributes.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from itm.utils.errors import first_line

MOST = 2**25  # reads of a file, one or two per value, and values of the content
DEEPEST = 64  # levels of lists, tuples and dicts within each other
SCALARS = (str, bytes, int, float, bool, type(None))
DTYPE = re.compile(r"[<>|=]?([biufc]\d{1,2}|[SU]\d{1,9})")  # no objects, records or dates

Calls = Mapping[str, Callable[..., Any]]


class Name(NamedTuple):
    """A function or class that a pickle names; it is never looked up."""

    path: str


class Later:
    """A value that is complete only when the whole pickle was read."""

    def value(self) -> Any:
        """Return the value.

        Raises:
            ValueError: the pickle did not describe one.
        """
        raise NotImplementedError

    def build(self, state: Any) -> None:
        """Take what the pickle would give to `__setstate__`."""
        raise pickle.UnpicklingError(f"a {type(self).__name__} takes no further state")


class Instance(Later):
    """An instance of a class that the reader was told to accept.

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
    return {_checked_key(key): value for key, value in pairs}


def _make_set(items: Any = ()) -> set[Any]:
    if type(items) not in (list, tuple, set):
        raise pickle.UnpicklingError("a set is expected as a list")
    return {_checked_key(item) for item in items}


def _checked_key(key: Any) -> Any:
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


class _File:
    """A file that gives exactly the bytes asked for, and reserves no memory beyond its size."""

    def __init__(self, file: IO[bytes]):
        here = file.tell()
        self.file, self.size, self.reads = file, file.seek(0, 2), 0
        file.seek(here)

    def read(self, count: int) -> bytes:
        self.reads += 1
        if self.reads > MOST:
            raise pickle.UnpicklingError(f"it has more than {MOST} parts")
        data = self.file.read(count) if 0 <= count <= self.size else b""
        if len(data) != count:
            raise EOFError("it ends too early")
        return data

    def readline(self) -> bytes:
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise EOFError("it ends too early")
        return line


# Python's own reader in Python is the base: the one in C reserves memory for numbers that a
# pickle only claims. Its private name has been the same since Python 3.0.
_Base: Any = pickle._Unpickler


class Unpickler(_Base):  # type: ignore[misc]
    """Reads one pickle from a file; `load` returns its content.

    Args:
        file: open for reading, at the pickle's first byte; left behind its last one.
        calls: functions that stand for those that the pickle may call, by module and name.
        classes: last names of the classes whose instances become an `Instance`.
        encoding: of the strings that Python 2 wrote.
        storage: turns a persistent id into a value.
    """

    def __init__(
        self,
        file: IO[bytes],
        calls: Calls = ARRAYS,
        classes: tuple[str, ...] = (),
        encoding: str = "latin1",
        storage: Callable[[Any], Any] | None = None,
    ):
        super().__init__(_File(file), encoding=encoding)
        self._calls, self._classes, self._storage = calls, classes, storage

    def load(self) -> Any:
        """Return the content; values that are `Later` still stand in it, see `complete`."""
        return super().load()

    def find_class(self, module: str, name: str) -> Name:
        """Accept a name that the reader knows, without looking it up.

        Raises:
            UnpicklingError: another name.
        """
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        found = Name(f"{module}.{name}")
        known = found.path in self._calls or found.path in WORDS or self._is_class(found)
        rebuilt = self._classes and found.path in ("copyreg._reconstructor", "builtins.object")
        stored = self._storage is not None and re.fullmatch(r"torch\.(cuda\.)?\w+Storage", found[0])
        if not (known or rebuilt or stored):
            raise pickle.UnpicklingError(f"it asks for GLOBAL {found.path}")
        return found

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage of a torch file.

        Raises:
            UnpicklingError: this is not a torch file.
        """
        if self._storage is None:
            raise pickle.UnpicklingError("it refers to data outside of it")
        return self._storage(pid)

    def _is_class(self, name: Name) -> bool:
        return name.path.rpartition(".")[2] in self._classes

    def _call(self, function: Any, arguments: Any) -> Any:
        if type(function) is not Name or type(arguments) is not tuple:
            raise pickle.UnpicklingError("it calls something that is not a function")
        if function.path == "copyreg._reconstructor" and len(arguments) == 3:
            function, arguments = arguments[0], ()  # (class, object, None) in protocols 0 and 1
        if type(function) is Name and self._is_class(function):
            return Instance(function.path)
        if type(function) is not Name or function.path not in self._calls:
            raise pickle.UnpicklingError("it calls something that is not a function")
        return self._calls[function.path](*arguments)

    # Operations that differ from Python's --------------------------------------------------------

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _obj(self) -> None:
        """Class and arguments behind a mark, as Python 2 pickles classes of the old style."""
        function, *arguments = self.pop_mark()
        self.append(self._call(function, tuple(arguments)))

    def _inst(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        self.append(self._call(self.find_class(module, name), tuple(self.pop_mark())))

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Later):
            target.build(state)
        elif type(target) is not dict:  # an OrderedDict has attributes, of no use here
            raise pickle.UnpicklingError(f"a {type(target).__name__} takes no state")

    def _append(self) -> None:
        item = self.stack.pop()
        self._extend([item])

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise pickle.UnpicklingError("it appends to something that is not a list")
        self.stack[-1].extend(items)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set_items(self) -> None:
        self._set(self.pop_mark())

    def _set(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise pickle.UnpicklingError("it sets a key of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][_checked_key(key)] = value

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set(items)

    def _add_items(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise pickle.UnpicklingError("it adds to something that is not a set")
        self.stack[-1].update(map(_checked_key, items))

    def _frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(map(_checked_key, items)))

    def _bytearray(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def _frame(self) -> None:
        """Frames only tell how much to read ahead."""
        self.read(8)

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("it uses operations that plain data does not need")

    dispatch = {
        **_Base.dispatch,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.OBJ[0]: _obj,
        pickle.INST[0]: _inst,
        pickle.BUILD[0]: _build,
        pickle.APPEND[0]: _append,
        pickle.APPENDS[0]: _appends,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _dict,
        pickle.ADDITEMS[0]: _add_items,
        pickle.FROZENSET[0]: _frozenset,
        pickle.BYTEARRAY8[0]: _bytearray,
        pickle.FRAME[0]: _frame,
        pickle.EXT1[0]: _refuse,
        pickle.EXT2[0]: _refuse,
        pickle.EXT4[0]: _refuse,
        pickle.NEWOBJ_EX[0]: _refuse,
        pickle.PERSID[0]: _refuse,
        pickle.NEXT_BUFFER[0]: _refuse,
        pickle.READONLY_BUFFER[0]: _refuse,
    }


def complete(content: Any) -> Any:
    """Copy what `Unpickler.load` returned, with arrays and scalars in place of what is `Later`.

    Raises:
        UnpicklingError: it contains itself, is nested too deeply or has too many values.
    """
    done: dict[int, tuple[Any, int, Any]] = {}  # id -> copy, values in it, original (kept alive)
    open_: set[int] = set()

    def walk(value: Any, level: int) -> tuple[Any, int]:
        if type(value) in SCALARS or type(value) in (bytearray, set, frozenset):
            return value, 1
        if id(value) in done:
            return done[id(value)][:2]
        if id(value) in open_ or level > DEEPEST:
            raise pickle.UnpicklingError(f"it contains itself or is deeper than {DEEPEST} levels")
        open_.add(id(value))
        total = 1
        found: Any
        if isinstance(value, Instance):
            value.fields, total = walk(value.fields, level + 1)
            found = value
        elif isinstance(value, Later):
            found = value.value()
        elif type(value) is dict:
            found = {}
            for key, item in value.items():
                found[key], count = walk(item, level + 1)
                total += count
        elif type(value) in (list, tuple):
            items = []
            for item in value:
                one, count = walk(item, level + 1)
                items.append(one)
                total += count
            found = items if type(value) is list else tuple(items)
        elif isinstance(value, Name):
            raise pickle.UnpicklingError(f"it holds GLOBAL {value.path} itself")
        else:
            raise pickle.UnpicklingError(f"it holds a {type(value).__name__}")
        if total > MOST:
            raise pickle.UnpicklingError(f"it holds more than {MOST} values")
        open_.remove(id(value))
        done[id(value)] = found, total, value
        return found, total

    return walk(content, 0)[0]


def read_pickle(
    path: Path, calls: Calls = ARRAYS, classes: tuple[str, ...] = (), encoding: str = "latin1"
) -> Any:
    """Read a pickle of plain data, arrays and instances of known classes.

    Args:
        path: the file.
        calls: see `Unpickler`.
        classes: see `Unpickler`.
        encoding: of the strings that Python 2 wrote.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged or holds anything else.
    """
    with path.open("rb") as file:
        try:
            return complete(Unpickler(file, calls, classes, encoding).load())
        except Exception as error:  # a damaged or hostile pickle can raise anything
            raise ValueError(f"{path} could not be read safely: {first_line(error)}") from error


def read_arrays(path: Path) -> Any:
    """Read a pickle of arrays and plain containers.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged or holds anything else.
    """
    return read_pickle(path)
