"""Read pickles of plain data, arrays and a few named classes without calling anything they name.

A pickle is a program that names functions and calls them. `itm.utils.unpickler` runs only the
operations that build numbers, strings, lists, tuples, sets and dicts. A name never becomes the
object of that name; only stand-ins of `itm.utils.pickle_values` are called.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from itm.utils.pickle_values import ARRAYS, SCALARS, Calls, Instance, Later, Name
from itm.utils.readers import reading
from itm.utils.unpickler import MOST, Unpickler

DEEPEST = 64  # levels of lists, tuples and dicts within each other
CONTAINERS = 2**22  # of them in all; each takes a few hundred bytes while it is checked


def complete(content: Any) -> Any:
    """Copy the content that `Unpickler.load` returned, with each `Later` replaced by its value.

    Raises:
        UnpicklingError: the content contains itself, is nested too deeply or has too many values.
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
        if len(done) >= CONTAINERS:
            raise pickle.UnpicklingError(f"it holds more than {CONTAINERS} lists, tuples and dicts")
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
        encoding: of strings that Python 2 wrote.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged or holds anything else.
    """
    with reading(path, "could not be read safely"), path.open("rb") as file:
        return complete(Unpickler(file, calls, classes, encoding).load())


def read_arrays(path: Path) -> Any:
    """Read a pickle of arrays and plain containers.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged or holds anything else.
    """
    return read_pickle(path)
