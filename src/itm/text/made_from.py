"""Recognise derived files of other captions by content, not by name.

`itm.prepare` records in a vocabulary, label or concept list the hash of the captions that it was
made from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from itm.text.word_list_files import read_word_file

KEY = "captions_sha256"  # in JSON files


def hash_captions(captions: Iterable[str], caption_image: np.ndarray | None = None) -> str:
    """Hash captions in their order, and the image (M,) of each if given."""
    digest = hashlib.sha256()
    for caption in captions:
        digest.update(caption.encode("utf-8", "surrogatepass") + b"\n")
    if caption_image is not None:
        digest.update(np.asarray(caption_image, "<i8").tobytes())
    return digest.hexdigest()


def made_from(path: Path) -> str | None:
    """Return the hash that a JSON file records, or None: published files record none."""
    found = read_word_file(path).get(KEY) if path.is_file() else None
    return found if isinstance(found, str) else None
