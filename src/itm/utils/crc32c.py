"""CRC-32C (Castagnoli), the checksum of TensorFlow's files, fast enough for weights."""

from __future__ import annotations

import numpy as np

LANE = 1024  # bytes of one lane; all lanes are computed together


def _table() -> np.ndarray:
    rows: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        rows = np.where(rows & 1, (rows >> 1) ^ np.uint32(0x82F63B78), rows >> 1)
    return rows


TABLE = _table()


def crc32c(data: bytes) -> int:
    """Compute the CRC-32C of bytes.

    The register is a linear function of the bytes before it. Therefore the data is cut into lanes,
    whose registers start at zero and are joined in pairs.
    """
    lanes = 1 << max(0, (len(data) - 1) // LANE).bit_length()
    step = -(-len(data) // lanes)
    padded = np.zeros(lanes * step, np.uint8)  # zeros in front do not change a register of zero
    padded[len(padded) - len(data) :] = np.frombuffer(data, np.uint8)
    state = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(lanes, step).T):
        state = TABLE[(state ^ column) & 255] ^ (state >> 8)
    shift = _shift(step)
    while len(state) > 1:
        state = _apply(shift, state[::2]) ^ state[1::2]
        shift = _apply(shift, shift)
    start = _apply(_shift(len(data)), np.array([0xFFFFFFFF], np.uint32))
    return int(state[0] ^ start[0]) ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """Return a checksum as TensorFlow stores it: rotated by 15 bits, plus a constant."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _apply(matrix: np.ndarray, registers: np.ndarray) -> np.ndarray:
    """Multiply registers by a matrix of bits, given as the image of each bit, (32,)."""
    found: np.ndarray = np.zeros_like(registers)
    for bit in range(32):
        found ^= np.where(registers >> np.uint32(bit) & np.uint32(1), matrix[bit], np.uint32(0))
    return found


def _shift(count: int) -> np.ndarray:
    """Return the matrix that moves a register over `count` bytes of zeros."""
    bits: np.ndarray = np.uint32(1) << np.arange(32, dtype=np.uint32)
    power = TABLE[bits & 255] ^ (bits >> 8)  # over one byte
    found: np.ndarray = bits
    while count:
        if count & 1:
            found = _apply(power, found)
        power = _apply(power, power)
        count >>= 1
    return found
