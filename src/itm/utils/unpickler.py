"""Run the operations of a pickle that build plain data, and refuse all others."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import IO, Any

from itm.utils.pickle_values import ARRAYS, WORDS, Calls, Instance, Later, Name, checked_key

MOST = 2**25  # reads of a file, of which each value needs one or two
SMALL = 2**28  # bytes that calls may make in any file; in a larger file, as many as it has
ITEM = 64  # bytes of an entry in a set or dict


class _File:
    """A file that returns as many bytes as asked, and reserves no memory beyond its size."""

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


# The base is the unpickler written in Python: the one in C reserves memory for sizes that a pickle
# only claims. Its private name has been the same since Python 3.0.
_Base: Any = pickle._Unpickler


class Unpickler(_Base):  # type: ignore[misc]
    """Read one pickle from a file; `load` returns its content.

    Args:
        file: open for reading, at the pickle's first byte; left behind its last one.
        calls: stand-ins for the functions that the pickle may call, by module and name.
        classes: names, without module, of classes whose instances are read as `Instance`.
        encoding: of strings that Python 2 wrote.
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
        source = _File(file)
        super().__init__(source, encoding=encoding)
        self._calls, self._classes, self._storage = calls, classes, storage
        self._left = max(SMALL, 2 * source.size)  # bytes that calls may still make

    def load(self) -> Any:
        """Return the content; it may still contain `Later` values, see `safe_pickle.complete`."""
        return super().load()

    def find_class(self, module: str, name: str) -> Name:
        """Accept a known name, without looking it up.

        Raises:
            UnpicklingError: the name is unknown.
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
        return self._charged(self._calls[function.path](*arguments))

    def _charged(self, made: Any) -> Any:
        """Count what a call made: a few bytes can ask for copies of one large value."""
        if isinstance(made, Later):
            self._left -= made.cost()
        elif type(made) in (bytes, dict, set):
            self._left -= len(made) * (1 if type(made) is bytes else ITEM)
        if self._left < 0:
            raise pickle.UnpicklingError("it copies its values to more bytes than it has")
        return made

    # Operations that differ from Python's --------------------------------------------------------

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _obj(self) -> None:
        """Call a class with the arguments after a mark: Python 2 pickles old-style classes so."""
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
            self._charged(target)
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
            self.stack[-1][checked_key(key)] = value

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set(items)

    def _add_items(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise pickle.UnpicklingError("it adds to something that is not a set")
        self.stack[-1].update(map(checked_key, items))

    def _frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(map(checked_key, items)))

    def _bytearray(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def _frame(self) -> None:
        """Skip the size of a frame, which only tells how much to read ahead."""
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
