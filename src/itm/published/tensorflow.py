"""Variables of a TensorFlow checkpoint, read without TensorFlow.

A checkpoint is an index file, `PREFIX.index`, and data files, `PREFIX.data-00000-of-00001`. The
index is a sorted table of blocks (LevelDB's format): each block holds keys that share prefixes with
the key before them, and ends with a list of restart points. Values are Protocol Buffers: where each
variable lies in the data files, of which type and shape.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAGIC = 0xDB4775248B80FB57  # last eight bytes of a table
TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # DataType -> numpy


def read_variables(prefix: str | Path) -> dict[str, Tensor]:
    """All numeric variables of a checkpoint.

    Args:
        prefix: path without ".index", as given to `tf.train.Saver.restore`.

    Raises:
        FileNotFoundError: no index or no data file.
        ValueError: a damaged or compressed index, or a data file that is too short.
    """
    index = Path(f"{prefix}.index")
    try:
        entries = dict(_table(index.read_bytes()))
        header = _message(entries.pop(b""))
        shards = header[1]
        found = {key.decode(): _message(value) for key, value in entries.items()}
    except (KeyError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"{index} is no TensorFlow checkpoint index ({error!r})") from error
    return {
        name: torch.from_numpy(_variable(prefix, name, entry, shards))
        for name, entry in found.items()
        if entry.get(1) in TYPES
    }


def _variable(prefix: str | Path, name: str, entry: dict[int, Any], shards: int) -> np.ndarray:
    """The array that an entry points to: 1 type, 2 shape, 3 file, 4 offset, 5 size in bytes."""
    sizes = [
        _message(size).get(1, 0) for size in _message(entry.get(2, b""), repeated=2).get(2, [])
    ]
    kind, size = np.dtype(TYPES[entry[1]]), entry.get(5, 0)
    with open(f"{prefix}.data-{entry.get(3, 0):05d}-of-{shards:05d}", "rb") as file:
        file.seek(entry.get(4, 0))
        data = file.read(size)
    if len(data) != size or size != kind.itemsize * int(np.prod(sizes)):
        raise ValueError(f"{file.name} does not hold the {size} bytes of {name} {tuple(sizes)}")
    return np.frombuffer(data, kind).reshape(sizes).copy()


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table, through its index of blocks."""
    if len(data) < 48 or struct.unpack("<Q", data[-8:])[0] != MAGIC:
        raise IndexError("its last bytes are not those of a table")
    position = 0
    footer = data[-48:]
    for _ in range(2):  # offset and size of the unused meta block
        _, position = _varint(footer, position)
    start, position = _varint(footer, position)
    size, _ = _varint(footer, position)
    for _, handle in _block(data, start, size):
        start, position = _varint(handle, 0)
        size, _ = _varint(handle, position)
        yield from _block(data, start, size)


def _block(data: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block."""
    if data[start + size] != 0:
        raise ValueError("its blocks are compressed, which checkpoints usually are not")
    restarts = struct.unpack_from("<I", data, start + size - 4)[0]
    end, position, key = start + size - 4 * (restarts + 1), start, b""
    while position < end:
        shared, position = _varint(data, position)
        rest, position = _varint(data, position)
        length, position = _varint(data, position)
        key = key[:shared] + data[position : position + rest]
        position += rest
        yield key, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A variable-length integer, seven bits a byte, and the position behind it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7


def _message(data: bytes, repeated: int | None = None) -> dict[int, Any]:
    """Fields of a Protocol Buffer by number; those of the `repeated` field in a list."""
    fields: dict[int, Any] = {}
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        value: Any
        if wire == 0:
            value, position = _varint(data, position)
        elif wire == 2:
            length, position = _varint(data, position)
            value, position = data[position : position + length], position + length
        else:  # 1 and 5 are fixed numbers of eight and four bytes
            length = {1: 8, 5: 4}[wire]
            value, position = data[position : position + length], position + length
        if number == repeated:
            fields.setdefault(number, []).append(value)
        else:
            fields[number] = value
    return fields
