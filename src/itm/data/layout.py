"""Read splits in the SCAN layout, in all forms that are in use.

`{split}_ims.npy`: (rows, R, F) or (rows, F), float32 or float16; each image has one row, or one row
per caption. `{split}_caps.txt`: one caption a line, the captions of an image on consecutive lines.
Optional: `{split}_ids.txt` (one id per image, per row, or per caption, which tells images with
unequally many captions apart), `{split}_boxes.npy` (rows, R, 4), which GSMN calls
`{split}_ims_bbx.npy`. CC152K has `{split}_caps.tsv`, id<TAB>caption, in place of the captions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from itm.data.array_file import ArrayFile
from itm.data.array_file import read_array as read_array
from itm.data.assignment import assign, image_ids
from itm.data.box_file import read_boxes
from itm.data.caption_file import caption_path, check_sentences, read_pairs
from itm.data.caption_file import read_captions as read_captions
from itm.data.split import Features as Features
from itm.data.split import ImageView as ImageView
from itm.data.split import Split as Split
from itm.data.split import find_row as find_row
from itm.data.split import name_of as name_of
from itm.utils.folders import check_unmarked

MANY = 128  # regions; more of them than columns are the columns of a transposed array
FIVE_EACH = ("coco_1k", "coco_5k")  # COCO's images have five to seven captions; these take five


def read_split(
    root: str | Path, name: str, captions_per_image: int | None = None, protocol: str = "full"
) -> Split:
    """Read one split; only captions and boxes are loaded.

    Args:
        root: folder of the files.
        name: "train", "dev", "test", "testall", ...
        captions_per_image: inferred when None.
        protocol: of the evaluation; those of COCO keep the first five captions of each image.

    Raises:
        FileNotFoundError: a file is missing; the message lists the files wanted and found.
        ValueError: files that contradict each other or are broken.
    """
    root = Path(root).expanduser()
    ims, caps = root / f"{name}_ims.npy", caption_path(root, name)
    ids, boxes = root / f"{name}_ids.txt", _box_file(root, name)
    _check_present(root, name, ims, caps)
    check_unmarked(root)
    features, captions = read_array(ims), read_captions(caps)
    if features.ndim not in (2, 3) or features.dtype.kind != "f" or 0 in features.shape[1:]:
        raise ValueError(
            f"{ims}: expected a float array (images, regions, width) or (images, width), found "
            f"{features.dtype} {features.shape}"
        )
    if features.ndim == 3 and features.shape[2] <= MANY < features.shape[1]:
        raise ValueError(
            f"{ims}: {features.shape} seems to be (images, width, regions); expected (images, "
            "regions, width): transpose it with np.ascontiguousarray(x.transpose(0, 2, 1))"
        )
    if not len(features) or not captions:
        raise ValueError(
            f"split {name!r} of {root} is empty: {len(features)} images, {len(captions)} captions"
        )
    check_sentences(captions, caps)
    names = read_captions(ids) if _is_there(ids) else None
    if caps.suffix == ".tsv":
        own = read_pairs(caps)[0]
        if names is not None and len(names) == len(own) and names != own:
            raise ValueError(f"{caps} and {ids} name the images differently; remove one of them")
        names, ids = (own, caps) if names is None else (names, ids)
    file = ArrayFile(ims, features) if isinstance(features, np.memmap) else None
    rows = features if file is None else file
    row, caption_image = assign(rows, captions, captions_per_image, names, ims, caps)
    split = Split(
        name,
        root,
        features,
        row,
        captions,
        caption_image,
        None if names is None else image_ids(names, row, len(features), len(captions), ids),
        read_boxes(boxes, features, ims) if _is_there(boxes) else None,
        protocol,
        file=file,
    )
    return split.first_captions(5) if protocol in FIVE_EACH else split


def _is_there(path: Path) -> bool:
    """Whether an optional file is there.

    Raises:
        ValueError: something else has its name.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a folder or pipe, expected a file")
    return path.is_file()


def _box_file(root: Path, name: str) -> Path:
    """Choose the file of the boxes: ours, or that of GSMN (Liu et al., CVPR 2020)."""
    own, gsmn = root / f"{name}_boxes.npy", root / f"{name}_ims_bbx.npy"
    if own.is_file() and gsmn.is_file():
        raise ValueError(f"{root} has boxes in both {own.name} and {gsmn.name}; remove one of them")
    return gsmn if gsmn.is_file() else own


def _check_present(root: Path, name: str, ims: Path, caps: Path) -> None:
    missing = [str(path) for path in (ims, caps) if not path.is_file()]
    if not missing:
        return
    for path in (ims, caps):
        _is_there(path)
    there = sorted(p.name for p in root.iterdir())[:20] if root.is_dir() else "no such folder"
    other = ""
    if name == "testall" and (root / "test_ims.npy").is_file():
        other = ", or read the test split that is there with data.test=test"
    raise FileNotFoundError(
        f"split {name!r} of {root} needs {ims.name} and {caps.name}; missing: "
        f"{', '.join(missing)}; found there: {there}. Set data.root to the folder that holds "
        f"them (see `python -m itm.prepare`){other}"
    )
