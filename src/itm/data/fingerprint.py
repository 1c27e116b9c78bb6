"""Identify the data of a run by content, so that resuming and reports notice other data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from itm.data.layout import Split
from itm.utils.packed_arrays import from_text

if TYPE_CHECKING:
    from itm.data.module import RegionDataModule

ROWS = 64  # images that the fingerprints of earlier versions have read
SAMPLE = 2**27  # bytes of features that are read at most; all of COCO would take minutes
LISTS = {  # word list -> the need that it serves; None = any
    "vocabulary": None,
    "label_vocabulary": "labels",
    "concept_vocabulary": "concepts",
}
PACKED = ("counts", "adjacency", "vectors")  # of concepts, as text that depends on the zlib
CONTENT = "; content "  # begins the hash that does not


def fingerprint(data: RegionDataModule, trained: int) -> dict[str, str]:
    """Describe training and validation data, each part with a hash of its content.

    Captions, the images that training assigns to them (with noise, if any) and the word lists are
    read whole, and of the features a sample, see `feature_digest`.

    Args:
        data: a data module that is set up.
        trained: number of captions that are trained on, counted from the first.

    Returns:
        Part -> description, such as "train captions" -> "30000 captions, 1f0c9a...".
    """
    found: dict[str, str] = {}
    for stage in ("train", "val"):
        split = data.split(stage)
        owners = np.ascontiguousarray(data.reader(stage).caption_image, dtype=np.int64)
        found[f"{stage} features"] = f"{_features(split)}; {feature_digest(split)}"
        total = len(split.captions)
        used = trained if stage == "train" else total
        count = str(total) if used == total else f"{used} of {total}"
        found[f"{stage} captions"] = f"{count} captions, {_hash(split.captions)}"
        found[f"{stage} pairs"] = f"{split.num_images} images, {_hash([owners.tobytes()])}"
    for name, need in LISTS.items():
        words = getattr(data, name)
        if words is not None and need in (None, *data.needs):  # else it served an earlier matcher
            state = _plain(words.state())
            text = f"{len(words)} words, {_hash([json.dumps(state, sort_keys=True)])}"
            arrays = {key: from_text(state.pop(key)).tobytes() for key in PACKED if key in state}
            if arrays:
                plain = json.dumps(state, sort_keys=True)
                text += f"{CONTENT}{_hash([plain, *arrays, *arrays.values()])}"
            found[name.replace("_", " ")] = text
    return found


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Say which parts of two fingerprints differ, "part: before -> now"; no part = "none"."""
    parts = [*before, *(part for part in now if part not in before)]
    return [
        f"{part}: {before.get(part, 'none')} -> {now.get(part, 'none')}"
        for part in parts
        if not _agree(before.get(part), now.get(part))
    ]


def _agree(before: str | None, now: str | None) -> bool:
    """Compare one part; an earlier version described features by fewer images, and no content."""
    if before is None or now is None:
        return before is now
    if CONTENT in before and CONTENT in now:
        return before.partition(CONTENT)[2] == now.partition(CONTENT)[2]
    return before == now or now.startswith(f"{before}; ")


def feature_digest(split: Split) -> str:
    """Hash the features of a split, or of as many images, evenly spaced, as `SAMPLE` bytes hold."""
    one = max(1, split.regions * split.width * split.features.dtype.itemsize)
    rows = _spaced(split.num_images, max(ROWS, SAMPLE // one))
    return f"{len(rows)} of {split.num_images}, {_hash(_stored(split, rows))}"


def split_digest(split: Split) -> str:
    """Hash what a split measures: features (see `feature_digest`), captions, and their images."""
    owners = np.ascontiguousarray(split.caption_image, dtype=np.int64).tobytes()
    return _hash([feature_digest(split), *split.captions, owners])


def _features(split: Split) -> str:
    shape = " x ".join(map(str, (split.num_images, split.regions, split.width)))
    found = _hash(_stored(split, _spaced(split.num_images, ROWS)))
    return f"{shape} {split.features.dtype}, {found}"


def _spaced(images: int, most: int) -> np.ndarray:
    """Choose at most that many images, from the first to the last."""
    return np.unique(np.linspace(0, images - 1, min(images, most)).astype(np.int64))


def _stored(split: Split, rows: np.ndarray) -> Iterator[bytes]:
    """Read the stored features of some images, a few at a time."""
    source = split.features if split.file is None else split.file
    for start in range(0, len(rows), ROWS):
        for row in source[split.row[rows[start : start + ROWS]]]:
            yield np.ascontiguousarray(row).tobytes()


def _hash(parts: Iterable[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Convert a word list's state to JSON, without the name of the file it came from."""
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items() if key != "source"}
    return value.tolist() if isinstance(value, np.ndarray) else value
