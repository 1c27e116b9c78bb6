"""Evaluate on COCO 5K with ECCV Caption and CxC, which add human judgements to COCO's own pairs.

Sources: Chun et al., "ECCV Caption" (ECCV 2022) and Parekh et al., "Crisscrossed captions" (EACL
2021). The judgements are JSON tables in the `eccv-caption` package (MIT); its code is not used.
"""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from itm.metrics.ranking import KS, Matrix, to_numpy, topk
from itm.metrics.retrieval import evaluate
from itm.utils.archive import read_npy
from itm.utils.readers import read_json, reader, reading

COCO_5K = (5000, 25000)  # images, captions


class Judgements(NamedTuple):
    """The right items of Q queries in one direction.

    Attributes:
        queries: (Q,) rows of the queries.
        positives: (P, 2) pairs (position in `queries`, gallery row) of the right items in the
            gallery.
        size: (Q,) number R of right items of each query, including items outside the gallery.
    """

    queries: np.ndarray
    positives: np.ndarray
    size: np.ndarray


class Tables(NamedTuple):
    """The ids of the split in row order, and the judgements by name and direction.

    Attributes:
        image_ids: (5000,) COCO image ids.
        caption_ids: (25000,) COCO caption ids.
        caption_image: (25000,) row of each caption's image.
        judgements: `cxc` and `eccv` -> `i2t` and `t2i` -> Judgements.
    """

    image_ids: np.ndarray
    caption_ids: np.ndarray
    caption_image: np.ndarray
    judgements: dict[str, dict[str, Judgements]]


@reader("could not be used as tables of eccv-caption", path="folder")
def load_tables(folder: str | Path | None = None, caption_ids: ArrayLike | None = None) -> Tables:
    """Read the JSON tables.

    Args:
        folder: folder with `eccv_image_to_caption.json` and the other tables; None = the installed
            `eccv-caption` package.
        caption_ids: COCO caption ids in the column order of the matrix; its rows are the images in
            the order in which their captions first appear. None = the Karpathy order of SCAN's
            `testall` split.

    Raises:
        FileNotFoundError: the tables are missing.
        ValueError: a caption id outside COCO 5K, or a table that judges no query of the split.
    """
    folder = _packaged() if folder is None else Path(folder).expanduser()
    if found := sorted([*folder.glob("s*ts_*.csv"), *folder.glob("data/s*ts_*.csv")]):
        raise ValueError(
            f"{folder} holds {found[0].name} of Crisscrossed Captions as released; its judgements "
            "of images with captions are among the tables of the package eccv-caption: use those"
        )
    originals = _read_table(folder / "original_caption_to_image.json")
    own = {caption: images[0] for caption, images in originals.items()}
    ids = _read_ids(folder / "coco_test_ids.npy") if caption_ids is None else caption_ids
    ids = np.asarray(ids)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or len(np.unique(ids)) != len(ids):
        raise ValueError(
            f"caption ids must be different whole numbers (25000,), got {ids.dtype} {ids.shape}"
        )
    unknown = [caption for caption in ids.tolist() if caption not in own]
    if unknown:
        raise ValueError(f"{len(unknown)} caption ids are not in COCO 5K test, first {unknown[0]}")
    images: dict[int, int] = {}  # id -> row
    for caption in ids.tolist():
        images.setdefault(own[caption], len(images))
    captions = {caption: row for row, caption in enumerate(ids.tolist())}
    return Tables(
        np.array(list(images), np.int64),
        ids.astype(np.int64),
        np.array([images[own[caption]] for caption in ids.tolist()], np.int64),
        {
            name: {
                "i2t": _judgements(folder / f"{name}_image_to_caption.json", images, captions),
                "t2i": _judgements(folder / f"{name}_caption_to_image.json", captions, images),
            }
            for name in ("cxc", "eccv")
        },
    )


def _packaged() -> Path:
    """Find the tables of the installed package."""
    package = find_spec("eccv_caption")
    if package is None or package.origin is None:
        raise FileNotFoundError(
            "the ECCV Caption tables are in the package eccv-caption, which is not installed: "
            "`pip install eccv-caption`, or give the folder with its JSON files"
        )
    return Path(package.origin).parent / "data"


def _read_table(path: Path) -> dict[int, list[int]]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: give the data folder of eccv-caption")
    table = read_json(path)
    with reading(path, "must hold lists of ids by id"):
        return {int(key): _whole_numbers(values) for key, values in table.items()}


def _whole_numbers(values: object) -> list[int]:
    if not isinstance(values, list) or any(isinstance(value, float | bool) for value in values):
        raise ValueError(f"found {str(values)[:60]!r}")  # a string would be read digit by digit
    return [int(value) for value in values]


def _judgements(path: Path, queries: dict[int, int], items: dict[int, int]) -> Judgements:
    """Read the right items of each query.

    Args:
        path: table, id of a query -> ids of its right items.
        queries: id -> row; queries that are not there are left out.
        items: id -> row; items that are not there count, but cannot be found.
    """
    table = {q: set(right) for q, right in _read_table(path).items() if q in queries}
    if not table:
        raise ValueError(f"{path} judges no query of these {len(queries)} images or captions")
    if empty := [query for query, right in table.items() if not right]:
        kind = path.stem.split("_")[1]
        raise ValueError(f"{path} lists no right item for {kind} {empty[0]}")
    positives = [
        (place, items[item])
        for place, right in enumerate(table.values())
        for item in right
        if item in items
    ]
    return Judgements(
        np.array([queries[query] for query in table], np.int64),
        np.array(positives, np.int64).reshape(-1, 2),
        np.array([len(right) for right in table.values()], np.int64),
    )


def _read_ids(path: Path) -> np.ndarray:
    with reading(path, "is not a .npy file of caption ids"):
        return read_npy(path.read_bytes())


def check_order(tables: Tables, ids: Sequence[str] | None) -> bool:
    """Check that the images of a split are those of the tables, in the same order.

    Args:
        tables: as `load_tables` returns them.
        ids: ids of the images; COCO's number is the last number in each.

    Returns:
        Whether the ids have COCO's numbers; those of some published folders are numbers of rows.

    Raises:
        ValueError: another image, another order or another number of images.
    """
    found = [re.findall(r"\d+", name)[-1:] for name in ids or []]
    numbers = [int(number[0]) for number in found if number]
    rows = all(name.isdecimal() for name in ids or []) and max(numbers, default=0) < len(
        tables.caption_ids
    )
    if numbers == tables.image_ids.tolist():
        return True
    if rows or len(numbers) < len(found):
        return False
    pairs = enumerate(zip(numbers, tables.image_ids, strict=False))
    row = next((i for i, (a, b) in pairs if a != b), None)
    if row is None:  # one begins like the other
        raise ValueError(
            f"the split has {len(numbers)} images, and the tables of ECCV Caption "
            f"{len(tables.image_ids)}: give the whole split"
        )
    raise ValueError(
        f"image {row} is {(ids or [])[row]}, but {tables.image_ids[row]} in the tables of ECCV "
        "Caption: they judge COCO's test images in the order of SCAN's testall and of Karpathy's "
        "file"
    )


def evaluate_eccv(scores: Matrix, tables: Tables | None = None) -> dict[str, float]:
    """Compute the ECCV Caption, CxC and COCO metrics of a COCO 5K similarity matrix.

    Args:
        scores: (5000, 25000) similarity, rows and columns in the order of the tables.
        tables: see `load_tables`; None reads them for SCAN's `testall` order.

    Returns:
        Percentages for both directions: `i2t_eccv_map_at_r`, `i2t_eccv_rprecision`, `i2t_eccv_r1`,
        `r5`, `r10`, the same for `cxc`, and the recalls of `coco_1k` (mean of five folds) and
        `coco_5k`, unless the tables are of fewer images.

    Raises:
        ValueError: the matrix has another size.
    """
    tables = load_tables() if tables is None else tables
    shape = (len(tables.image_ids), len(tables.caption_ids))
    if tuple(scores.shape) != shape:
        raise ValueError(
            f"ECCV Caption is defined on the COCO 5K test split, {shape[0]} images x {shape[1]} "
            f"captions, got {tuple(scores.shape)}"
        )
    array, result = to_numpy(scores), {}
    for direction, values in (("i2t", array), ("t2i", array.T)):
        judgements = {name: sides[direction] for name, sides in tables.judgements.items()}
        lists = topk(values, max(*KS, *(j.size.max(initial=0) for j in judgements.values())))
        for name, judged in judgements.items():
            for key, value in judge(lists[judged.queries], judged).items():
                result[f"{direction}_{name}_{key}"] = 100 * float(value.mean())
    for name in ("coco_1k", "coco_5k") if shape == COCO_5K else ():
        recalls = evaluate(array, tables.caption_image, name)
        for direction in ("i2t", "t2i"):
            result |= {f"{direction}_{name}_r{k}": recalls[f"{direction}_r{k}"] for k in KS}
    return result


def judge(items: np.ndarray, judged: Judgements) -> dict[str, np.ndarray]:
    """Compute the metrics of every query, as fractions.

    With R right items and precision P@r among the first r items:
    R-precision = P@R, and AP@R = 1/R x the sum of P@r over places r <= R with a right item.

    Args:
        items: (Q, T) ranked gallery rows of each query, best first, T >= the largest R.
        judged: the right items of these queries.

    Returns:
        `r1`, `r5`, `r10`, `rprecision` and `map_at_r`, each (Q,).
    """
    gallery = max(items.max(initial=0), judged.positives[:, 1].max(initial=0)) + 1
    query = np.arange(len(items))[:, None]
    right = np.isin(query * gallery + items, judged.positives @ [gallery, 1])
    place = np.arange(items.shape[1])
    precision = right.cumsum(1) / (place + 1)
    inside = right & (place < judged.size[:, None])
    return {f"r{k}": right[:, :k].any(1).astype(float) for k in KS} | {
        "rprecision": inside.sum(1) / judged.size,
        "map_at_r": (inside * precision).sum(1) / judged.size,
    }
