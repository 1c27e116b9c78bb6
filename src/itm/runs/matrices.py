"""Read and write score matrices, and find the image of each caption."""

from __future__ import annotations

from collections.abc import Iterable
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from itm.data.array_file import load_array
from itm.data.fingerprint import split_digest
from itm.data.layout import Split
from itm.metrics.ranking import to_numpy
from itm.runs.outputs import check_files
from itm.runs.plain_files import data_name, read_record
from itm.runs.record import split_facts
from itm.utils.files import write_array

HOW = ("shortlist", "precision")  # options of itm.evaluate that change scores


def read_matrices(paths: Iterable[str | Path]) -> list[np.ndarray]:
    """Read saved (N, M) score matrices.

    Raises:
        ValueError: a file is not a .npy file of numbers or differs from its checksum in the folder
            of an evaluation, or a matrix has another shape than the first.
    """
    matrices: list[np.ndarray] = []
    for path in map(Path, paths):
        check_files(path.parent, (escape(path.name),))
        matrix = load_array(path)
        wanted = matrices[0].shape if matrices else ""
        if matrix.ndim != 2 or (wanted and matrix.shape != wanted):
            raise ValueError(f"{path} is {matrix.shape}, expected (images, captions) {wanted}")
        if matrix.dtype.kind not in "fiu":
            raise ValueError(f"{path} holds {matrix.dtype}, expected numbers")
        matrices.append(to_numpy(matrix))
    return matrices


def check_origin(path: str | Path, matrix: np.ndarray, split: Split) -> None:
    """Check that scores which `itm.evaluate` saved are those of a split, not of another one.

    Raises:
        ValueError: the report.json beside the matrix tells of another split or other data.
    """
    report = Path(path).parent / "report.json"
    facts = read_record(report) if report.is_file() else {}
    made, now, content = facts.get("split"), split.name, facts.get("content")
    if not isinstance(made, str) or not isinstance(facts.get("root"), str) or "unknown" in made:
        return
    there, here = data_name(facts["root"]), data_name(split.folder.resolve())
    named_alike = (made, there) == (now, here)
    if content is None or not fits_split(matrix, split):  # an earlier version recorded names only
        alike = named_alike
    else:
        alike = content == split_digest(split)
    if not alike:
        changed = ", whose captions or features have changed since" if named_alike else ""
        raise ValueError(
            f"{path} holds scores of split {made} of {there}, says {report.name} beside it, but "
            f"the captions are those of split {now} of {here}{changed}: give data.root= and "
            "data.split= of the matrix (if it is right all the same, copy the matrix elsewhere)"
        )


def made_with(path: str | Path) -> dict[str, Any]:
    """Read which of `HOW` `itm.evaluate` computed a saved matrix with; {} = all scores, exactly."""
    report = Path(path).parent / "report.json"
    facts = read_record(report) if report.is_file() else {}
    return {key: facts[key] for key in HOW if facts.get(key) is not None}


def write_matrices(folder: Path, matrices: Iterable[np.ndarray]) -> None:
    """Write score matrices as similarity_0.npy, similarity_1.npy, ..."""
    for i, matrix in enumerate(matrices):
        write_array(folder / f"similarity_{i}.npy", matrix)


def fits_split(matrix: np.ndarray, split: Split) -> bool:
    """Tell whether a matrix has a row for each image of a split and a column for each caption."""
    return matrix.shape == (split.num_images, len(split.captions))


def matrix_facts(matrix: np.ndarray, split: Split, protocol: str) -> dict[str, Any]:
    """Return what results of a matrix were measured on; of another split nothing is known."""
    if fits_split(matrix, split):
        return split_facts(split, protocol)
    unknown = {"split": "unknown split", "root": "unknown data"}
    return {**unknown, "protocol": protocol, "images": len(matrix)}


def caption_owner(matrix: np.ndarray, split: Split) -> np.ndarray:
    """Find the (M,) row of each caption's image: from the split, else for five captions per image.

    Raises:
        ValueError: the (N, M) matrix fits neither.
    """
    images, captions = matrix.shape
    if fits_split(matrix, split):
        return split.caption_image
    if captions == 5 * images:
        return np.arange(captions) // 5
    raise ValueError(
        f"the matrix is {matrix.shape}, but {split.folder} {split.name} has {split.num_images} "
        f"images and {len(split.captions)} captions; choose data= and data.split= of the matrix"
    )
