"""Write arrays as strings, for JSON."""

import base64
import io
import zlib

import numpy as np

from itm.utils.archive import read_npy

LARGEST = 2**30  # bytes of an array; 16,000 concepts have so many counts
SMALL = 2**22  # bytes of an array that is compressed as far as possible; 724 concepts


def to_text(array: np.ndarray) -> str:
    """Write an array as a short string: .npy bytes, compressed, in base64."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    # Level 9 takes 47 s for the counts of 3,000 concepts, level 6 takes 2 s. Small arrays keep it:
    # runs have recorded the hash of this text.
    packed = zlib.compress(data, 9 if len(data) <= SMALL else 6)
    return base64.b64encode(packed).decode("ascii")


def from_text(text: str) -> np.ndarray:
    """Read the array that `to_text` wrote.

    Raises:
        ValueError: the text is damaged, or claims more than `LARGEST` bytes.
    """
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(base64.b64decode(text), LARGEST)
    except (zlib.error, TypeError) as error:
        raise ValueError(f"an array in JSON is damaged ({error})") from error
    if unpacker.unconsumed_tail:
        raise ValueError(f"an array in JSON has more than {LARGEST} bytes")
    return read_npy(data)
