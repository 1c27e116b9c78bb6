"""Write features that others extracted as a folder in the SCAN layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from itm.data.boxes import to_fractions
from itm.data.names import Names, report_lost
from itm.features.arrays import read_arrays
from itm.features.hdf5 import read_hdf5
from itm.features.records import Record, box_units, check_record
from itm.features.store import Store, fit, write_captions
from itm.features.tsv import read_tsv

READERS: dict[str, Callable[[str | Path], Iterator[Record]]] = {
    "tsv": read_tsv,
    "arrays": read_arrays,
    "hdf5": read_hdf5,
}


def convert_features(
    records: Iterable[Record],
    splits: Mapping[str, Sequence[str]],
    captions: Mapping[str, Sequence[str]],
    out: str | Path,
    regions: int | None = None,
    dtype: str = "float16",
) -> Path:
    """Write the images of all splits in one pass over the records, which may come in any order.

    Args:
        records: one per image; images outside all splits are skipped and counted.
        splits: split -> images.
        captions: image -> captions.
        out: folder to write.
        regions: R of the result. Images with more regions lose the last ones, images with fewer
            repeat theirs. None keeps the number of the images, which must be the same for all.
        dtype: "float16" or "float32".

    Raises:
        ValueError: images differ in regions, width or the units of their boxes, have features and
            boxes that contradict each other, have no record or two.
    """
    place = {
        name: (split, row) for split, names in splits.items() for row, name in enumerate(names)
    }
    names, stores = Names(place), dict[str, Store]()
    shape: tuple[int, int] | None = None
    units: tuple[str, str] | None = None  # of the boxes, and the image that told them
    given, lost = False, list[str]()
    sources: dict[str, str] = {}
    for record in records:
        name = names.claim(record.name)
        if name is None:
            lost.append(record.name)
            continue
        features = check_record(record)
        own = box_units(record)
        if units and own and own != units[0] != "no boxes":
            raise ValueError(
                f"image {record.name} has {own}, image {units[1]} has {units[0]}; all images must "
                "be alike"
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
        elif (regions is None and len(features) != shape[0]) or features.shape[1] != shape[1]:
            raise ValueError(
                f"image {record.name} has features {features.shape}, the first one had {shape}; "
                "regions=36 brings all to one number of regions"
            )
        boxes = None if record.boxes is None else to_fractions(record.boxes, record.size)
        if given and boxes is None:
            raise ValueError(f"image {record.name} has {own}, the first image had known units")
        split, row = place[name]
        features = fit(features, shape[0])
        if sources.get(name) == record.name and not stores[split].holds(row, features):
            raise ValueError(f"the source has image {record.name} twice, with different features")
        sources[name] = record.name
        kept = None if boxes is None or not given else fit(boxes, shape[0])[None]
        stores[split].write([row], features[None], kept)
    _check(splits, stores, len(place))
    report_lost(
        ("images of the source without captions", lost, len(lost) + len(sources)), partial=True
    )
    if units and not given:
        print(f"no boxes written, since image {units[1]} has {units[0]}")
    write_captions(out, splits, captions)
    for store in stores.values():
        store.finish()
    return Path(out)


def _check(splits: Mapping[str, Sequence[str]], stores: Mapping[str, Store], wanted: int) -> None:
    if not stores:
        example = next(name for images in splits.values() for name in images)
        raise ValueError(
            f"no image of the captions, such as {example!r}, has features in the source"
        )
    for store in stores.values():
        store.flush()
    absent = [splits[split][row] for split, store in stores.items() for row in store.missing]
    if absent:
        raise ValueError(
            f"{len(absent)} of {wanted} images have captions but no features, such as "
            f"{', '.join(absent[:5])}; leave them out of the captions or of the lists of the splits"
        )
