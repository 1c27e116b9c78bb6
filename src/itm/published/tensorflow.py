"""Read the variables of a TensorFlow checkpoint without TensorFlow.

A checkpoint is an index file, `PREFIX.index`, and data files, `PREFIX.data-00000-of-00001`. The
index is a sorted table of blocks (LevelDB's format): each block holds keys that share prefixes with
the key before them, and ends with a list of restart points and a checksum. Values are Protocol
Buffers with the place of each variable in the data files, its type, shape and checksum.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itm.utils.crc32c import crc32c, masked
from itm.utils.readers import check_regular

MAGIC = 0xDB4775248B80FB57  # last eight bytes of a table
TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # DataType -> numpy
LARGEST = 2**26  # bytes of an index, which usually has some hundred kilobytes
LONGEST = 4096  # bytes of a name
AXES = 16

Message = dict[int, Any]


def read_variables(prefix: str | Path) -> dict[str, Tensor]:
    """Read all numeric variables of a checkpoint.

    Args:
        prefix: path without ".index", as given to `tf.train.Saver.restore`.

    Raises:
        FileNotFoundError: the index or a data file is missing.
        ValueError: an index or a data file is damaged or compressed.
    """
    index = Path(f"{prefix}.index")
    check_regular(index)
    if index.stat().st_size > LARGEST:
        raise ValueError(f"{index} is too large for an index: more than {LARGEST} bytes")
    try:
        entries = dict(_table(index.read_bytes()))
        shards = _number(_message(entries.pop(b"")), 1)
        found = {key.decode(): _message(value) for key, value in entries.items()}
        variables = {
            name: (_number(entry, 3), *_place(name, entry))
            for name, entry in found.items()
            if _number(entry, 1) in TYPES
        }
        if any(shard >= shards for shard, *_ in variables.values()):
            raise ValueError(f"its variables are in more than {shards} files")
    except (KeyError, IndexError, struct.error, ValueError) as error:
        raise ValueError(
            f"{index} is not an index of a TensorFlow checkpoint, or it is damaged ({error})"
        ) from error
    return {
        name: _variable(Path(f"{prefix}.data-{place[0]:05d}-of-{shards:05d}"), name, *place[1:])
        for name, place in variables.items()
    }


def _place(name: str, entry: Message) -> tuple[str, tuple[int, ...], int, int]:
    """Read type, shape, offset and checksum of the variable that an entry describes."""
    shape = _message(_bytes(entry, 2), repeated=2).get(2, [])
    if type(shape) is not list or len(shape) > AXES or not all(type(x) is bytes for x in shape):
        raise ValueError(f"the shape of {name[:80]!r} is damaged")
    sizes = tuple(_number(_message(size), 1) for size in shape)
    expected = np.dtype(TYPES[entry[1]]).itemsize * math.prod(sizes)
    if _number(entry, 5) != expected:
        raise ValueError(f"{name[:80]!r} {sizes} has {entry.get(5, 0)} bytes, expected {expected}")
    return TYPES[entry[1]], sizes, _number(entry, 4), int.from_bytes(_bytes(entry, 6), "little")


def _variable(
    path: Path, name: str, kind: str, sizes: tuple[int, ...], offset: int, checksum: int
) -> Tensor:
    """Read one variable from its data file."""
    check_regular(path)
    size = np.dtype(kind).itemsize * math.prod(sizes)
    if offset + size > path.stat().st_size:
        raise ValueError(f"{path} does not hold the {size} bytes of {name} {sizes}")
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if masked(crc32c(data)) != checksum:
        raise ValueError(f"{path} is damaged: the checksum of {name} does not fit its bytes")
    return torch.from_numpy(np.frombuffer(data, kind).reshape(sizes).copy())


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a table, found by its index of blocks."""
    if len(data) < 48 or struct.unpack("<Q", data[-8:])[0] != MAGIC:
        raise ValueError("its last bytes are not those of a table")
    position = 0
    footer = data[-48:]
    for _ in range(2):  # offset and size of the unused meta block
        _, position = _varint(footer, position)
    start, position = _varint(footer, position)
    size, _ = _varint(footer, position)
    end, last = 0, None
    for _, handle in _block(data, start, size):
        start, position = _varint(handle, 0)
        size, _ = _varint(handle, position)
        if start < end:
            raise ValueError("its blocks overlap")
        end = start + size
        for key, value in _block(data, start, size):
            if last is not None and key <= last:
                raise ValueError("its keys are not in order")
            yield key, value
            last = key


def _block(data: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of one block; its type and checksum follow it."""
    stop = start + size
    if size < 4 or stop + 5 > len(data):
        raise ValueError("a block ends beyond the end of the file")
    if data[stop] != 0:
        raise ValueError("its blocks are compressed, which checkpoints usually are not")
    if masked(crc32c(data[start : stop + 1])) != struct.unpack_from("<I", data, stop + 1)[0]:
        raise ValueError("the checksum of a block does not fit its bytes")
    restarts = struct.unpack_from("<I", data, stop - 4)[0]
    end, position, key = stop - 4 * (restarts + 1), start, b""
    while position < end:
        shared, position = _varint(data, position)
        rest, position = _varint(data, position)
        length, position = _varint(data, position)
        if shared > len(key) or shared + rest > LONGEST or position + rest + length > end:
            raise ValueError("a key or value ends beyond its block")
        key = key[:shared] + data[position : position + rest]
        position += rest
        yield key, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Read a whole number below 2**63 of seven bits a byte, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
    if byte >= 128 or value >= 2**63:
        raise ValueError("a number is too large")
    return value, position


def _message(data: bytes, repeated: int | None = None) -> Message:
    """Read the fields of a Protocol Buffer by number; the `repeated` field becomes a list."""
    fields: Message = {}
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        value: Any
        if wire == 0:
            value, position = _varint(data, position)
        elif wire in (1, 2, 5):
            length = {1: 8, 5: 4}.get(wire, 0)  # fixed numbers of eight and four bytes
            if wire == 2:
                length, position = _varint(data, position)
            if position + length > len(data):
                raise ValueError("a field ends beyond its message")
            value, position = data[position : position + length], position + length
        else:
            raise ValueError(f"a field has the unknown wire type {wire}")
        if number == repeated:
            fields.setdefault(number, []).append(value)
        else:
            fields[number] = value
    return fields


def _number(fields: Message, number: int) -> int:
    """Return a field that must hold a whole number; 0 if it is absent."""
    value = fields.get(number, 0)
    if type(value) is not int:
        raise ValueError(f"field {number} must be a number, got bytes")
    return value


def _bytes(fields: Message, number: int) -> bytes:
    """Return a field that must hold bytes; none if it is absent."""
    value = fields.get(number, b"")
    if type(value) is not bytes:
        raise ValueError(f"field {number} must be bytes, got a number")
    return value
