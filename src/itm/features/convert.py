"""Convert existing features to a folder in the SCAN layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from itm.data.boxes import ORDERS, check_scale, in_order, to_fractions
from itm.data.names import Names, report_lost
from itm.features.arrays import read_arrays
from itm.features.data_folder import building, is_complete, read_record, write_record
from itm.features.hdf5 import read_hdf5
from itm.features.partition import check_shares, partition
from itm.features.records import Record, box_units, check_record, count_backward
from itm.features.sentences import read_sentences
from itm.features.store import Store, check_output, fit, report_fitted, write_captions
from itm.features.tsv import read_tsv
from itm.utils.checks import check_choice, check_paths
from itm.utils.manifest import digest

READERS: dict[str, Callable[[str | Path], Iterator[Record]]] = {
    "tsv": read_tsv,
    "arrays": read_arrays,
    "hdf5": read_hdf5,
}


OTHERS = {  # formats that must be converted first, and how
    "lmdb": "LMDB files hold pickled objects, and unpickling runs code, so they are not read; "
    "write one .npz per image with features, boxes, image_w and image_h in an environment that "
    "trusts the file, and give from=arrays (docs/features.md has the loop)",
    "parquet": "Parquet and Arrow files of Hugging Face's datasets are not read; write one .npz "
    "per image with features and boxes, and give from=arrays (docs/features.md has the loop)",
}
ENDINGS = {".mdb": "lmdb", ".lmdb": "lmdb", ".parquet": "parquet", ".arrow": "parquet"}
RECORD = "prepare.json"  # what a folder was made of


def write_data_folder(
    kind: str,
    source: str | Path,
    captions: str | Path,
    out: str | Path,
    lists: Mapping[str, str | Path | None] | None = None,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    partial: bool = False,
    regions: int | None = None,
    dtype: str = "float16",
    overwrite: bool = False,
    box_order: str = "xyxy",
) -> Path:
    """Write features and captions of two files as a data folder, completely or not at all.

    Args:
        kind: one of `READERS`.
        source: file or folder of the features.
        captions: file of the captions, see `itm.features.sentences.read_sentences`.
        out: folder to write; if it holds the same result already, nothing is done.
        lists: see `itm.features.partition.partition`.
        fractions: see there.
        seed: see there.
        partial: see there.
        regions: see `convert_features`.
        dtype: see `convert_features`.
        overwrite: replace another result in `out`.
        box_order: see `convert_features`.

    Raises:
        ValueError: an option is out of range, the files do not belong together, or `out` holds
            other files or another result.
    """
    check_output(dtype, regions)
    check_choice("box_order", box_order, ORDERS)
    check_shares(fractions, seed)
    listed = {f"splits.{split}": path for split, path in (lists or {}).items()}
    check_paths({"source": source, "captions": captions, **listed})
    settings: dict[str, Any] = {
        "from": kind,
        "captions": digest(captions),
        "splits": {split: digest(path) for split, path in (lists or {}).items()},
        "fractions": list(fractions),
        "seed": seed,
        "partial": partial,
        "regions": regions,
        "dtype": dtype,
    }
    if box_order != "xyxy":  # records of earlier versions lack it
        settings["box_order"] = box_order
    _check_source(Path(source).expanduser())
    out = Path(out).expanduser()
    before = read_record(out, RECORD) if is_complete(out, RECORD, settings) else None
    if before is not None and not overwrite and before.get("source") == digest(source):
        print(f"{out} holds this result already")
        return out
    sentences = read_sentences(captions)
    sentences.report()
    own, known = sentences.captions, sentences.splits
    splits = partition(list(own), lists, known, fractions, seed, partial)
    with building(out, RECORD, settings, overwrite) as folder:
        records = READERS[kind](source)
        inside = source if kind == "arrays" else None  # names of arrays are those of their files
        convert_features(records, splits, own, folder, regions, dtype, box_order, inside)
        write_record(folder, RECORD, {"settings": settings, "source": digest(source)})
    return out


def _check_source(source: Path) -> None:
    """Refuse stores that must be converted first, by the endings of their files.

    Raises:
        ValueError: the source is an LMDB store, or Parquet or Arrow files.
    """
    inside = sorted(source.iterdir()) if source.is_dir() else []
    for path in [source, *inside]:
        kind = ENDINGS.get(path.suffix.lower())
        if kind is not None and not any(p.suffix in (".npy", ".npz") for p in inside):
            raise ValueError(f"source={source} holds {path.name}: {OTHERS[kind]}")


def convert_features(
    records: Iterable[Record],
    splits: Mapping[str, Sequence[str]],
    captions: Mapping[str, Sequence[str]],
    out: str | Path,
    regions: int | None = None,
    dtype: str = "float16",
    box_order: str = "xyxy",
    source: str | Path | None = None,
) -> Path:
    """Write the images of all splits in one pass over the records, which may come in any order.

    Args:
        records: one per image; images that are in no split are skipped and counted.
        splits: split -> images.
        captions: image -> captions.
        out: folder to write.
        regions: R of the result. Images with more regions lose the last ones, images with fewer
            repeat theirs. None = the number of regions of the images, which must all have the same.
        dtype: "float16" or "float32".
        box_order: order of the columns of the boxes, see `itm.data.boxes.to_corners`.
        source: the folder that the names of the records are relative to, if they are files.

    Raises:
        ValueError: images differ in regions, width or the units of their boxes; features and boxes
            contradict each other; or an image has no record, or two different ones.
    """
    check_output(dtype, regions)
    place = {
        name: (split, row) for split, names in splits.items() for row, name in enumerate(names)
    }
    names, stores = Names(place, None, source), dict[str, Store]()
    shape: tuple[int, int] | None = None
    units: tuple[str, str] | None = None  # of the boxes, and the image that has them
    given, lost, backward = False, list[str](), dict[str, int]()
    sources, counts = dict[str, str](), list[int]()
    within = list[tuple[np.ndarray, float]]()  # largest corners and sides, to find percent
    for record in records:
        if not record.name.strip():
            raise ValueError("the source has an image without a name")
        name = names.claim(record.name)
        if name is None:
            lost.append(record.name)
            continue
        if record.boxes is None and box_order != ORDERS[0]:
            raise ValueError(f"box_order={box_order}, but image {record.name} has no boxes")
        record = check_record(record, box_order)
        features = record.features
        own = box_units(record)
        if own == "boxes in pixels" and record.size:
            within.append((np.max(np.asarray(record.boxes)), min(record.size)))
        if count := count_backward(record):
            backward[record.name] = count
        if units and own and own != units[0] != "no boxes":
            raise ValueError(
                f"image {record.name} has {own}, image {units[1]} has {units[0]}; all images must "
                "have boxes in the same units, or none"
            )
        if units is None and own:
            units = own, record.name
        if shape is None:
            shape = (regions or len(features), features.shape[1])
            given = record.boxes is not None and to_fractions(record.boxes, record.size) is not None
            stores = {
                split: Store(out, split, (len(images), *shape), dtype, given)
                for split, images in splits.items()
            }
        else:
            _check_shape(record.name, features.shape, shape, regions)
        boxes = None if record.boxes is None else to_fractions(record.boxes, record.size)
        if given and boxes is None:
            raise ValueError(f"image {record.name} has {own}, the first image has known units")
        split, row = place[name]
        counts.append(len(features))
        features = fit(features, shape[0])
        kept = None if boxes is None or not given else fit(in_order(boxes), shape[0])
        if sources.get(name) == record.name and not stores[split].holds(row, features, kept):
            raise ValueError(
                f"the source has image {record.name} twice, with different features or boxes"
            )
        sources[name] = record.name
        stores[split].write([row], features[None], None if kept is None else kept[None])
    names.report()
    _check(splits, stores, len(place), lost)
    check_scale(within)
    report_fitted(counts, shape[0] if shape else 0)
    lost += names.displaced
    report_lost(
        ("images of the source without captions", lost, len(lost) + len(sources)), partial=True
    )
    if units and not given:
        print(f"no boxes written, since image {units[1]} has {units[0]}")
    if given and backward:
        print(
            f"warning: {sum(backward.values())} boxes of {len(backward)} images end before they "
            f"begin, x2 < x1 or y2 < y1, such as those of {next(iter(backward))}; they are written "
            "with their corners in order"
        )
    write_captions(out, splits, captions)
    for store in stores.values():
        store.finish()
    return Path(out)


def _check(
    splits: Mapping[str, Sequence[str]],
    stores: Mapping[str, Store],
    wanted: int,
    others: Sequence[str],
) -> None:
    if not stores:
        example = next(name for images in splits.values() for name in images)
        held = ", ".join(map(repr, others[:3])) or "nothing"
        raise ValueError(
            f"no image of the captions, such as {example!r}, has features in the source, which "
            f"holds {held}"
        )
    for store in stores.values():
        store.flush()
    absent = [splits[split][row] for split, store in stores.items() for row in store.missing]
    if absent:
        raise ValueError(
            f"{len(absent)} of {wanted} images have captions but no features, such as "
            f"{', '.join(absent[:5])}; leave them out of the captions or of the lists of the splits"
        )


def _check_shape(
    name: str, found: tuple[int, ...], first: tuple[int, int], regions: int | None
) -> None:
    if found[1] == first[1] and (regions is not None or found[0] == first[0]):
        return
    remedy = "regions=36 changes all to one number of regions"
    if found[1] != first[1]:
        remedy = "all need one width: extract all in the same way, or leave the others out"
    raise ValueError(f"image {name} has features {found}, the first image has {first}; {remedy}")
