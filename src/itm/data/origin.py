"""Describe what a matcher was trained on, so that an evaluation notices images it has learnt.

A matcher keeps an origin for each training: marks of its images, and the settings of `itm.extract`
that its features were made with. An origin is plain data and goes where the matcher goes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from itm.data.layout import Split
from itm.utils.readers import read_json

IMAGES = 2**14  # images of a training that are remembered, evenly spaced: 64 KiB
CAPTIONS = 5  # captions that mark an image; COCO's protocols read no more of an image
RECORD = "extract.json"  # as `itm.features.plan` writes it
SETTINGS = ("backbone", "revision", "size", "windows", "overlap", "regions")

Origin = Mapping[str, Any]


def describe_origin(split: Split, captions: int) -> dict[str, Any]:
    """Describe a training.

    Args:
        split: the split that is trained on.
        captions: number of its captions, counted from the first, that are trained on.

    Returns:
        "images": marks of at most `IMAGES` images, 4 bytes each in base64; "of": their number
        before; "features": settings of `itm.extract`, if it made the folder.
    """
    seen = np.unique(split.caption_image[:captions])
    kept = seen[np.unique(np.linspace(0, len(seen) - 1, min(len(seen), IMAGES)).astype(int))]
    marks = base64.b64encode(_marks(split, kept).tobytes()).decode()
    found = {"images": marks, "of": len(seen)}
    features = _feature_settings(split.folder)
    return found if features is None else {**found, "features": features}


def count_trained(origins: Sequence[Origin], split: Split) -> int:
    """Count the images of a split that belong to a training, by their captions.

    At least so many were trained on: of a large training some images are remembered.
    """
    known = [_read_marks(x) for x in origins]
    if not known:
        return 0
    marks = _marks(split, np.arange(split.num_images))
    return int(np.isin(marks, np.concatenate(known)).sum())


def warn_trained(origins: Sequence[Origin], split: Split) -> list[str]:
    """Say that images of a split were trained on, or nothing."""
    count = count_trained(origins, split)
    if not count:
        return []
    least = "at least " if any(x["of"] > IMAGES for x in origins) else ""
    return [
        f"warning: {least}{count} of the {split.num_images} images of {split.name} have the "
        "captions of images that the matcher was trained on, so their results say nothing about "
        "new images"
    ]


def warn_chosen(val: Split, test: Split) -> list[str]:
    """Say that images of a test take part in the choice of the best epoch, or nothing."""
    count = count_trained([describe_origin(val, len(val.captions))], test)
    if not count:
        return []
    return [
        f"warning: {count} of the {test.num_images} images of {test.name} have the captions of "
        f"images of the validation ({val.name}), which chooses the best epoch, so the test is not "
        "independent of that choice"
    ]


def other_features(origins: Sequence[Origin], split: Split) -> list[str]:
    """List the settings of `itm.extract` in which a split differs from the last training.

    Returns:
        Such as "size=260 instead of 224"; nothing if either was not made by `itm.extract`.
    """
    before = origins[-1].get("features") if origins else None
    now = _feature_settings(split.folder) if before else None
    if not before or not now:
        return []
    return [
        f"{name}={now[name]} instead of {before.get(name)}"
        for name in now
        if now[name] != before.get(name)
    ]


def check_origin(origin: Any) -> dict[str, Any]:
    """Check an origin that was read from a file.

    Raises:
        ValueError: it is not what `describe_origin` returns.
    """
    try:
        _read_marks(origin)
        valid = isinstance(origin["of"], int) and isinstance(origin.get("features", {}), dict)
    except (ValueError, TypeError, KeyError, AttributeError):
        valid = False
    if not valid:
        raise ValueError(f"what a matcher was trained on is damaged: {str(origin)[:60]!r}")
    return dict(origin)


def _read_marks(origin: Origin) -> np.ndarray:
    return np.frombuffer(base64.b64decode(origin["images"], validate=True), "<u4")


def _marks(split: Split, images: np.ndarray) -> np.ndarray:
    """Hash the first captions of each of n images, which mark it without ids: (n,) uint32."""
    order = np.argsort(split.caption_image, kind="stable")
    begins, ends = np.searchsorted(split.caption_image[order], [images, images + 1])
    marks = np.zeros(len(images), "<u4")
    for i, (begin, end) in enumerate(zip(begins, np.minimum(ends, begins + CAPTIONS), strict=True)):
        text = "\n".join(split.captions[row] for row in order[begin:end])
        marks[i] = int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "little")
    return marks


def _feature_settings(folder: Path) -> dict[str, Any] | None:
    """Read the settings of the features from the record of `itm.extract`; None without one."""
    try:
        settings = read_json(folder / RECORD)["settings"]
        found = {name: settings[name] for name in SETTINGS}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    found["backbone"] = Path(str(found["backbone"])).name  # shared files hold no paths
    return found | {"boxes": "windows" if settings.get("boxes") is None else "a file"}
