"""Build the index of a TensorFlow checkpoint byte by byte."""

import struct

from itm.published.tensorflow import MAGIC
from itm.utils.crc32c import crc32c, masked


def entry(size=8, offset=0, dtype=1, checksum=None, dims=(b"\x08\x02",)):
    """Field numbers: 1 type, 2 shape, 4 offset, 5 size, 6 checksum."""
    shape = b"".join(b"\x12" + bytes([len(x)]) + x for x in dims)
    crc = masked(crc32c(b"\0" * 8)) if checksum is None else checksum
    head = bytes([8, dtype, 0x12, len(shape)]) + shape
    return head + bytes([0x20, offset, 0x28, size]) + b"\x35" + struct.pack("<I", crc)


def block(entries):
    data = b"".join(bytes([s, len(k), len(v)]) + k + v for s, k, v in entries)
    data += struct.pack("<II", 0, 1) + b"\0"
    return data + struct.pack("<I", masked(crc32c(data)))


def table(entries):
    body = block(entries)
    index = block([(0, b"\xff", b"\0" + bytes([len(body) - 5]))])
    foot = b"\0\0" + bytes([len(body) & 127 | 128, len(body) >> 7, len(index) - 5])
    return body + index + foot.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


HEADER = (0, b"", b"\x08\x01")
