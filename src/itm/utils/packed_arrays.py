"""Arrays as strings, for JSON."""

import base64
import io
import zlib

import numpy as np


def pack(array: np.ndarray) -> str:
    """Write an array as a short string: .npy bytes, compressed, in base64."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return base64.b64encode(zlib.compress(buffer.getvalue(), 9)).decode("ascii")


def unpack(text: str) -> np.ndarray:
    """Read the array that `pack` wrote."""
    buffer = io.BytesIO(zlib.decompress(base64.b64decode(text)))
    array: np.ndarray = np.load(buffer, allow_pickle=False)
    return array
