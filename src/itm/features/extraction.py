"""Extract region features of pictures: read boxes, and fill the arrays of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch.utils.data import DataLoader

from itm.data.boxes import ROUNDED, SCALES, check_scale, in_pixels, to_corners
from itm.data.names import Names, report_lost
from itm.features.backbones import Backbone
from itm.features.pictures import PictureDataset, folder_of
from itm.features.store import DTYPES, Store, check_output, fit, report_fitted
from itm.features.windows import coverage
from itm.utils.contents import parse_json, read_text
from itm.utils.picture_files import stored_size


def read_boxes(
    path: str | Path,
    names: Sequence[str],
    order: str = "xyxy",
    folder: str | Path | None = None,
) -> dict[str, np.ndarray]:
    """Read the boxes of every picture from a JSON file, {picture: [[x1, y1, x2, y2], ...]}.

    Args:
        path: the file; its names are matched to pictures by `itm.data.names.Names`.
        names: pictures that need boxes.
        order: order of the four numbers, see `itm.data.boxes.to_corners`.
        folder: the folder of the pictures.

    Returns:
        Picture -> (R, 4) float32 pixels or fractions.

    Raises:
        ValueError: the file has another format, a picture has no boxes, boxes are not (R, 4)
            numbers, `to_corners` refuses them, or a name could mean two pictures.
    """
    path, found = Path(path).expanduser(), dict[str, np.ndarray]()
    try:
        given = parse_json(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file of boxes ({error})") from error
    if not isinstance(given, dict):
        raise ValueError(f"{path}: expected {{picture: [[x1, y1, x2, y2], ...]}}")
    known = Names(names, folder)
    matched = known.match(given)
    known.report()
    for name, picture in matched.items():
        boxes = np.asarray(_numbers(given[name], f"{path}: {name}"), np.float32)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes):
            raise ValueError(f"{path}: {name} has boxes {boxes.shape}, expected (regions, 4)")
        found[picture] = to_corners(boxes, order, None, f"{path}: {name}")
    absent = [name for name in names if name not in found]
    if absent:
        raise ValueError(f"{path} has no boxes for {len(absent)} pictures, such as {absent[0]!r}")
    lost = [name for name in given if name not in matched]
    report_lost(("names of the boxes without a picture", lost, len(given)), partial=True)
    return found


def _numbers(value: Any, where: str) -> Any:
    """Return nested lists of equal length whose values are numbers, not strings or booleans."""
    try:
        array = np.asarray(value)
        if array.dtype.kind in "iuf" or not array.size:
            return array
        problem = f"found {array.dtype} such as {array.ravel()[0]!r}"
    except ValueError as error:  # lists of unequal lengths
        problem = str(error)
    raise ValueError(f"{where} has boxes that are not numbers: {problem}")


def fit_boxes(boxes: dict[str, np.ndarray], regions: int | None = None) -> dict[str, np.ndarray]:
    """Change the boxes of all pictures to one number of regions.

    Args:
        boxes: picture -> (n, 4).
        regions: R; None = the number of all pictures.

    Returns:
        Picture -> (R, 4).

    Raises:
        ValueError: `regions` is None, and the pictures differ in their number of boxes.
    """
    check_output(DTYPES[0], regions)
    counts = {len(own): name for name, own in boxes.items()}
    if regions is None and len(counts) > 1:
        (few, one), *_, (many, other) = sorted(counts.items())
        raise ValueError(
            f"picture {one} has {few} boxes, picture {other} has {many}; regions={many} changes "
            "all to one number of regions"
        )
    wanted = regions or next(iter(counts))
    report_fitted([len(own) for own in boxes.values()], wanted)
    return {name: fit(own, wanted) for name, own in boxes.items()}


def split_boxes(
    path: str | Path,
    splits: Mapping[str, Sequence[str]],
    regions: int | None = None,
    order: str = "xyxy",
    pictures: Mapping[str, Path] | None = None,
) -> dict[str, list[np.ndarray]]:
    """Read the boxes of the pictures of all splits, and change them to one number of regions.

    Args:
        path: as in `read_boxes`.
        splits: split -> names of its pictures.
        regions: R; None = the number of all pictures.
        order: see `read_boxes`.
        pictures: name -> file; with them, boxes in percent are noticed although each picture has
            few.

    Returns:
        Split -> (R, 4) per picture.

    Raises:
        ValueError: as in `read_boxes` and `fit_boxes`, or the boxes seem to be in percent.
    """
    every = [name for names in splits.values() for name in names]
    found = read_boxes(path, every, order, folder_of(pictures or {}))
    _check_scale(found, pictures or {})
    boxes = fit_boxes(found, regions)
    return {split: [boxes[name] for name in names] for split, names in splits.items()}


def _check_scale(boxes: Mapping[str, np.ndarray], pictures: Mapping[str, Path]) -> None:
    """Refuse boxes in percent or thousandths; pictures are opened only if boxes may be such."""
    far = max((float(own.max(initial=0)) for own in boxes.values()), default=0)
    if any(reach * scale < far <= ROUNDED * scale for scale, (_, reach, _) in SCALES.items()):
        check_scale(
            [
                (own, min(stored_size(pictures[name])))
                for name, own in boxes.items()
                if name in pictures and in_pixels(own)
            ]
        )


def extract_split(
    out: Path,
    split: str,
    paths: Sequence[Path],
    network: Backbone,
    boxes: np.ndarray | Sequence[np.ndarray],
    dtype: str = "float16",
    batch_size: int = 32,
    workers: int = 2,
) -> None:
    """Fill the features and boxes of one split; rows that an earlier run filled are kept.

    Args:
        out: folder of the features.
        split: name of the split.
        paths: N pictures.
        network: already on its device.
        boxes: (R, 4) fractions for all pictures, or N arrays (R, 4) of pixels or fractions.
        dtype: "float16" or "float32".
        batch_size: pictures per step.
        workers: loader processes.

    Raises:
        ValueError: values too large for the type, a picture that cannot be read, or features of an
            earlier run in another shape.
    """
    device = next(network.parameters()).device
    with torch.inference_mode():
        blank = torch.zeros(1, 3, network.size, network.size, device=device)
        width = network(blank).shape[1]
    regions = len(boxes if isinstance(boxes, np.ndarray) else boxes[0])
    store = Store(out, split, (len(paths), regions, width), dtype, resume=True)
    rows = store.missing
    if 0 < len(rows) < len(paths):
        print(f"{split}: continuing with {len(rows)} of {len(paths)} pictures")
    pictures = PictureDataset(paths, rows, network.size, boxes)
    loader = DataLoader(pictures, batch_size, num_workers=workers)
    for at, pixels, places in track(loader, split, disable=not len(rows)):
        with torch.inference_mode():
            maps = network(pixels.to(device).permute(0, 3, 1, 2).float())  # (B, F, H, W)
            weights = torch.from_numpy(coverage(places.numpy(), *maps.shape[2:])).to(device)
            regional = weights @ maps.float().flatten(2).mT  # (B, R, F)
        store.write(at.numpy(), regional.cpu().numpy(), places.numpy())
        store.flush()
    store.finish()
