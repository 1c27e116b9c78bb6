"""Read files of `torch.save`, in zip or legacy format, without torch's unpickler.

A file is a pickle of tensors that refer to storages, and the bytes of the storages: members of a
zip archive, or one after the other behind the pickle (PyTorch before 1.6). The pickle is read by
`itm.utils.safe_pickle`; sizes, strides and offsets are checked against the bytes of the file.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from itm.utils.pickle_values import ARRAYS, Calls, Later, Name, is_size
from itm.utils.readers import reading
from itm.utils.safe_pickle import complete
from itm.utils.unpickler import Unpickler

PROBLEM = "could not be read safely: it is damaged, or holds more than tensors and plain data"
MAGIC = 0x1950A86A20F9469CFC6C  # begins a file of the legacy format
TYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}


class _Storage(Later):
    """Numbers of one type; `flat` is filled in after the pickle was read."""

    def __init__(self, dtype: torch.dtype, key: str, count: int):
        self.dtype, self.key, self.count = dtype, key, count
        self.flat: Tensor | None = None

    @property
    def length(self) -> int:
        """Count the bytes of the storage."""
        return self.count * self.dtype.itemsize

    def fill(self, data: bytes) -> None:
        if len(data) != self.length:
            raise ValueError(f"storage {self.key} has {len(data)} bytes, expected {self.length}")
        empty = torch.empty(0, dtype=self.dtype)
        self.flat = torch.frombuffer(bytearray(data), dtype=self.dtype) if data else empty


class _View(Later):
    """A part of a storage, as versions before 0.4 saved it."""

    def __init__(self, storage: _Storage, offset: int):
        self.storage, self.offset = storage, offset


class _Tensor(Later):
    """A tensor of a storage; further arguments, such as hooks, are ignored."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any):
        more = storage.offset if isinstance(storage, _View) else 0
        self.storage = storage.storage if isinstance(storage, _View) else storage
        if not isinstance(self.storage, _Storage) or not is_size(offset):
            raise pickle.UnpicklingError("a tensor without a storage")
        for name, value in (("size", size), ("stride", stride)):
            if type(value) is not tuple or len(value) > 32 or not all(map(is_size, value)):
                raise pickle.UnpicklingError(f"a tensor has the {name} {str(value)[:80]}")
        if len(size) != len(stride):
            raise pickle.UnpicklingError(f"a tensor has size {size} and stride {stride}")
        self.place = size, stride, offset + more
        last = self.place[2] + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and (last >= self.storage.count or math.prod(size) > self.storage.count):
            raise pickle.UnpicklingError(
                f"a tensor of size {size} does not fit its storage of {self.storage.count} numbers"
            )

    def value(self) -> Tensor:
        if self.storage.flat is None:
            raise pickle.UnpicklingError("a tensor without numbers")
        size, stride, offset = self.place
        if not math.prod(size):
            return torch.empty(size, dtype=self.storage.dtype)
        return self.storage.flat.as_strided(size, stride, offset)


def _parameter(tensor: Any, *_: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise pickle.UnpicklingError("a parameter without a tensor")
    return tensor


def _size(sizes: Any = ()) -> tuple[int, ...]:
    if type(sizes) not in (tuple, list) or not all(map(is_size, sizes)):
        raise pickle.UnpicklingError("torch.Size needs whole numbers")
    return tuple(sizes)


TENSORS: Calls = {
    **ARRAYS,
    "torch._utils._rebuild_tensor": _Tensor,
    "torch._utils._rebuild_tensor_v2": _Tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
}


def read_torch(path: Path, classes: tuple[str, ...] = (), encoding: str = "utf-8") -> Any:
    """Read what `torch.save` wrote: tensors on the CPU, plain containers, numbers and strings.

    An OrderedDict is read as a dict, a parameter as its tensor.

    Args:
        path: the file.
        classes: names of classes whose instances are read as `pickle_values.Instance`.
        encoding: of strings that Python 2 wrote.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, which the checksums of a zip archive tell, or holds anything
            else.
    """
    with reading(path, PROBLEM), path.open("rb") as file:
        read = _read_zip if zipfile.is_zipfile(file) else _read_legacy
        file.seek(0)
        return read(file, classes, encoding)


def _storages(found: dict[str, _Storage]) -> Callable[[Any], Any]:
    """Return the function that turns a pickle's references into storages, collected in `found`."""

    def storage(pid: Any) -> Any:
        if (
            type(pid) is not tuple
            or len(pid) not in (5, 6)
            or pid[0] not in ("storage", b"storage")
        ):
            raise pickle.UnpicklingError("a storage without type, key and size")
        _, kind, key, _, count, *view = pid
        name = kind.path.rpartition(".")[2] if type(kind) is Name else ""
        dtype = TYPES.get(name.removesuffix("Storage"))
        key = key.decode("ascii") if type(key) is bytes else key
        if dtype is None or type(key) is not str or not is_size(count):
            raise pickle.UnpicklingError(f"a storage of unknown type {name!r}")
        known = found.setdefault(key, _Storage(dtype, key, count))
        if (known.dtype, known.count) != (dtype, count):
            raise pickle.UnpicklingError(f"storage {key} is described in two ways")
        if not view or view[0] is None:
            return known
        if type(view[0]) is not tuple or len(view[0]) != 3 or not is_size(view[0][1]):
            raise pickle.UnpicklingError("a view of a storage without offset and size")
        return _View(known, view[0][1])

    return storage


def _read_zip(file: BinaryIO, classes: tuple[str, ...], encoding: str) -> Any:
    whole = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        sizes = [member.file_size for member in members.values()]
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members.values())
        if packed or sum(sizes) > whole:
            raise ValueError(f"its members claim {sum(sizes)} bytes of a file of {whole}")
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} members data.pkl, expected one")
        prefix = pickles[0].removesuffix("data.pkl")
        order = archive.read(f"{prefix}byteorder") if f"{prefix}byteorder" in members else b"little"
        if order != b"little":
            raise ValueError(f"its byte order is {order!r}, expected little")
        found: dict[str, _Storage] = {}
        data = io.BytesIO(archive.read(pickles[0]))  # compares the checksum; a seek would not
        content = Unpickler(data, TENSORS, classes, encoding, _storages(found)).load()
        for key, storage in found.items():
            storage.fill(archive.read(f"{prefix}data/{key}"))
    return complete(content)


def _read_legacy(file: BinaryIO, classes: tuple[str, ...], encoding: str) -> Any:
    whole = file.seek(0, 2)
    file.seek(0)
    begin = Unpickler(file, {}).load()
    if begin != MAGIC:
        raise ValueError("its first bytes are not those of a torch file")
    version, _ = (complete(Unpickler(file, {}).load()) for _ in range(2))
    if version != 1001:
        raise ValueError(f"it has version {version!r}, expected 1001")
    found: dict[str, _Storage] = {}
    content = Unpickler(file, TENSORS, classes, encoding, _storages(found)).load()
    keys = complete(Unpickler(file, {}).load())
    if type(keys) is not list or sorted(map(str, keys)) != sorted(found):
        raise ValueError("its list of storages does not fit its tensors")
    for key in keys:
        storage = found[str(key)]
        count = int.from_bytes(file.read(8), "little")
        if count != storage.count or storage.length > whole:
            raise ValueError(f"storage {key} has {count} numbers, expected {storage.count}")
        storage.fill(file.read(storage.length))
    return complete(content)
