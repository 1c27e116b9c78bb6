"""Read the expressions of the REFER toolkit: ReferIt, RefCOCO, RefCOCO+, RefCOCOg."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from itm.data.boxes import check_boxes
from itm.data.layout import Split
from itm.data.names import Names
from itm.phrases.lines import check_phrase
from itm.phrases.split import Phrase
from itm.phrases.units import ids_of, in_units, read_annotation
from itm.utils.log_files import say
from itm.utils.safe_pickle import read_arrays

SPLITS = {  # splits of the layout -> those of REFER
    "train": ("train",),
    "dev": ("val",),
    "val": ("val",),
    "test": ("test", "testA", "testB"),
    "testall": ("test", "testA", "testB"),
}


def read_refer(path: Path, split: Split, refer_split: str | None = None) -> Iterator[Phrase]:
    """Read every expression about every object of the images; see `itm.phrases.read_phrases`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the files contradict each other, or no expression belongs to the wanted splits.
    """
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("refs*.p")) if path.is_dir() else [path]
    if len(files) != 1:
        raise ValueError(
            f"{folder} has {len(files)} files refs(NAME).p "
            f"({', '.join(file.name for file in files)}), expected one: give the path of one "
            f"instead of the folder, such as {files[-1] if files else folder / 'refs(unc).p'}"
        )
    try:
        instances = json.loads(read_annotation(folder / "instances.json"))
        boxes = _by_id(instances["annotations"])
        pictures = _by_id(instances["images"])
        ids = ids_of(split)
        names, rows = Names(ids), {name: row for row, name in enumerate(ids)}
        wanted = SPLITS.get(split.name, ()) if refer_split is None else (refer_split,)
        others, elsewhere, kept, read = Counter[str](), 0, 0, set[Any]()
        for number, ref in enumerate(read_arrays(files[0])):
            picture = pictures[int(ref["image_id"])]
            found = names.find(picture["file_name"]) or names.find(ref["image_id"])
            if found is None:
                elsewhere += 1
                continue
            own = ref.get("split")
            if own is not None and wanted and own not in wanted:
                others[own] += 1
                continue
            where = f"{files[0]}: expression {number} of image {ref['image_id']}"
            thing = boxes[int(ref["ann_id"])]
            if int(thing.get("image_id", ref["image_id"])) != int(ref["image_id"]):
                raise ValueError(f"{where}: its object is in image {thing['image_id']}")
            kept, read = kept + 1, read | {own}
            x, y, w, h = (float(value) for value in thing["bbox"])
            size = (int(picture["width"]), int(picture["height"]))
            check_boxes(np.array([x, y, x + w, y + h]), size, where, True)
            if min(w, h) <= 0:
                raise ValueError(f"{where}: bbox {(x, y, w, h)} must have a width and a height")
            box = in_units((x, y, x + w, y + h), size, split)  # COCO's boxes reach to the edges
            for sentence in ref["sentences"]:
                yield Phrase(rows[found], check_phrase(where, sentence["sent"]), box)
        names.report()
        if not wanted and len(read) > 1:
            say(
                f"objects of the splits {', '.join(sorted(map(str, read)))} of {files[0].name} are "
                f"read, because split {split.name} is not one of them; refer_split=NAME chooses one"
            )
        _report(files[0], split, wanted, others, elsewhere, kept)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{files[0]} and instances.json do not fit together: {error!r}") from error


def _report(
    file: Path,
    split: Split,
    wanted: tuple[str, ...],
    others: Counter[str],
    elsewhere: int,
    kept: int,
) -> None:
    """Print how many objects are left out.

    Raises:
        ValueError: all objects of the images.
    """
    counts = ", ".join(f"{name}: {n}" for name, n in others.items())
    if others and not kept:
        raise ValueError(
            f"{file} has no expression of {' or '.join(wanted)} about the images of split "
            f"{split.name}, but others ({counts}); say which to read with refer_split={min(others)}"
        )
    if elsewhere:
        say(f"left out: {elsewhere} objects of {file.name} that are not in split {split.name}")
    if others:
        say(f"left out: objects of other splits of REFER than {', '.join(wanted)} ({counts})")


def _by_id(entries: Any) -> dict[int, Any]:
    """Index entries of a COCO file by their ids.

    Raises:
        ValueError: an id occurs twice.
    """
    found: dict[int, Any] = {}
    for entry in entries:
        if int(entry["id"]) in found:
            raise ValueError(f"instances.json has the id {entry['id']} twice")
        found[int(entry["id"])] = entry
    return found
