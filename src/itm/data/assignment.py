"""Find which feature row belongs to each image, and which image to each caption."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from itm.data.names import check_twins
from itm.data.repeated import SAMPLE, Rows, equals_previous, period, repeated_rows

MOST = 50  # captions per image; more are taken for the captions of another split
MOST_EQUAL = 1 / 3  # of rows with different ids; two copies of each image would be a half


def assign(
    features: Rows,
    captions: list[str],
    per_image: int | None,
    ids: list[str] | None,
    ims: Path,
    caps: Path,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the feature row of each image (N,) and the image of each caption (M,).

    Args:
        features: (rows, R, F) or (rows, F).
        captions: M sentences.
        per_image: captions of each image; None = inferred.
        ids: one per image, per row, or per caption, or None.
        ims: file of the features, for messages.
        caps: file of the captions, for messages.

    Raises:
        ValueError: the numbers of rows and captions contradict each other, or equal rows may be
            one image or several.
    """
    rows, lines = len(features), len(captions)
    if rows == lines and per_image != 1 and not lines % (per_image or 1):
        starts = _first_rows(features, per_image, ids, ims)
        return starts, np.searchsorted(starts, np.arange(lines), side="right") - 1
    begins = _changes(ids) if ids is not None and len(ids) == lines else []
    if len(begins) == rows:
        _check_ids(np.diff([*begins, lines]), per_image, caps)
        return np.arange(rows), np.searchsorted(begins, np.arange(lines), side="right") - 1
    _check_lines(rows, lines, per_image, ims, caps)
    return np.arange(rows), np.arange(lines) // (lines // rows)


def _check_ids(counts: np.ndarray, per_image: int | None, caps: Path) -> None:
    """Check that ids give each image as many captions as the option says.

    Raises:
        ValueError: they give another number.
    """
    if per_image is not None and not (counts == per_image).all():
        raise ValueError(
            f"data.captions_per_image={per_image}, but the ids of {caps} give the images "
            f"{counts.min()} to {counts.max()} captions: leave the option out"
        )


def _check_lines(rows: int, lines: int, per_image: int | None, ims: Path, caps: Path) -> None:
    """Check that each image can have the same number of captions.

    Raises:
        ValueError: a line is missing or too many, or the files belong to different splits.
    """
    found = lines // rows
    if per_image is None and found > MOST:
        raise ValueError(
            f"{caps} has {lines} captions but {ims} has {rows} images, {found} captions for each: "
            f"the files seem to belong to different splits; if not, set data.captions_per_image="
            f"{found}"
        )
    if lines % rows or (per_image is not None and found != per_image):
        expected = f"{per_image or 5} captions per image"
        raise ValueError(
            f"{caps} has {lines} captions but {ims} has {rows} images: expected {expected}, that "
            f"is {rows * (per_image or 5)} lines (or one feature row per caption, {lines} rows); "
            "a line is missing or too many"
        )


def _first_rows(
    features: Rows, per_image: int | None, ids: list[str] | None, ims: Path
) -> np.ndarray:
    """Find the first row of each image in a file with as many rows as captions.

    Raises:
        ValueError: equal rows may be one image or several.
    """
    if per_image is not None:
        starts = np.arange(0, len(features), per_image)
        _check_equal(features, starts, ims, f"data.captions_per_image={per_image}")
        return starts
    if ids is not None and len(ids) == len(features):
        starts = np.array(_changes(ids))
        _check_equal(features, starts, ims, "the ids")
        _check_apart(features, starts, ims)
        return starts
    starts = np.flatnonzero(~repeated_rows(features))
    lengths = np.diff([*starts, len(features)])
    repeats = lengths.min()
    if len(starts) == len(features) and (rounds := period(features)):
        raise ValueError(
            f"{ims} has as many rows as there are captions, and they repeat after {rounds} rows. "
            "The captions of an image must stand on consecutive lines: sort rows and captions by "
            "image, or set data.captions_per_image=1 if each row is an image"
        )
    usual = 1 < repeats <= MOST and len(starts) > 1 and not (lengths % repeats).any()
    if len(starts) == len(features) or usual:
        return np.arange(0, len(features), repeats)
    same = starts[lengths.argmax()]
    raise ValueError(
        f"{ims} has as many rows as there are captions, and some equal rows (such as {same} and "
        f"{same + 1}), but not the same number for each image. Set data.captions_per_image=1 if "
        "each row is an image, data.captions_per_image=5 if each image has 5 rows, or write "
        f"{ims.name.removesuffix('_ims.npy')}_ids.txt with the image of each row"
    )


def _check_equal(features: Rows, starts: np.ndarray, ims: Path, told: str) -> None:
    """Check in a sample that the rows of each image are equal.

    Raises:
        ValueError: they differ.
    """
    more = np.setdiff1d(np.arange(len(features)), starts)
    sample = more[:: max(1, len(more) // SAMPLE)]
    wrong = sample[~equals_previous(features, sample)]
    if len(wrong):
        raise ValueError(
            f"{ims} has as many rows as there are captions, and by {told} rows {wrong[0] - 1} and "
            f"{wrong[0]} are one image, but they differ: set data.captions_per_image=1 if each row "
            "is an image, or correct the ids"
        )


def _check_apart(features: Rows, starts: np.ndarray, ims: Path) -> None:
    """Check in a sample that the ids do not name each copy of an image, such as a.jpg#0, a.jpg#1.

    A few equal rows may be pictures that occur twice; one row throughout has no copies to tell.

    Raises:
        ValueError: many rows equal the row before, which has another id.
    """
    sample = starts[1:][:: max(1, len(starts) // SAMPLE)]
    equal = sample[equals_previous(features, sample)]
    if len(equal) <= max(1, MOST_EQUAL * len(sample)) or repeated_rows(features)[1:].all():
        return
    raise ValueError(
        f"{ims} has as many rows as there are captions, and many equal rows, such as "
        f"{equal[0] - 1} and {equal[0]}, have different ids: set data.captions_per_image=1 if each "
        f"row is an image, or write into {ims.name.removesuffix('_ims.npy')}_ids.txt the id of the "
        "image of each row, not of its caption"
    )


def _changes(ids: list[str]) -> list[int]:
    """Find where another id begins."""
    return [i for i in range(len(ids)) if i == 0 or ids[i] != ids[i - 1]]


def image_ids(ids: list[str], row: np.ndarray, rows: int, captions: int, path: Path) -> list[str]:
    """Return one id per image from a file with one per image, per feature row or per caption.

    Args:
        ids: lines of the file.
        row: (N,) feature row of each image.
        rows: number of feature rows.
        captions: number of captions.
        path: the file, for messages.

    Raises:
        ValueError: another count, an id that names two images, or ids that look the same.
    """
    lines = np.arange(len(ids))
    if len(ids) == captions > rows:
        lines = np.array(_changes(ids))
    elif len(ids) == rows:
        lines = row
    if len(lines) != len(row):
        raise ValueError(f"{path} has {len(ids)} ids for {len(row)} images in {rows} rows")
    first: dict[str, int] = {}
    for image, line in enumerate(lines.tolist()):
        before = first.setdefault(ids[line], image)
        if before != image:
            raise ValueError(
                f"{path}:{line + 1}: id {ids[line]!r} names image {before} and image {image} "
                f"(first in line {lines[before] + 1}); each image needs its own id"
            )
    try:
        check_twins(first)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return list(first)
