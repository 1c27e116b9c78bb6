"""Assign pictures to splits and record the assignment, so that a killed extraction can continue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from itm.data.names import Names, report_lost
from itm.features.data_folder import other_settings, read_record, write_record
from itm.features.partition import check_drawn, partition
from itm.features.pictures import folder_of, inspect_pictures
from itm.features.sentences import read_sentences
from itm.features.store import write_captions
from itm.utils.files import write_text
from itm.utils.manifest import digest, digest_files

RECORD = "extract.json"  # file in the folder of the features: settings and splits

Groups = dict[str, list[str]]


def describe_settings(
    pictures: Mapping[str, Path],
    captions: str | Path | None,
    boxes: str | Path | None,
    lists: Mapping[str, str | Path | None],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Describe what features are made of: options by their values, files by their contents.

    Args:
        pictures: name -> file.
        captions: file of the captions, or None.
        boxes: file of the boxes, or None.
        lists: split -> file with its pictures, or None.
        options: every option that changes the features or the splits.
    """
    return {
        **options,
        "captions": digest(captions),
        "boxes": digest(boxes),
        "splits": {split: digest(path) for split, path in lists.items()},
        "pictures": digest_files(pictures),
    }


def read_plan(out: Path, settings: Mapping[str, Any]) -> Groups | None:
    """Read the pictures of each split from the folder of an earlier run; None without a plan.

    Raises:
        ValueError: `out` was made with other settings, or its record is damaged.
    """
    record = read_record(out, RECORD)
    if record is None or "splits" not in record:
        return None
    if other := other_settings(record, settings):
        raise ValueError(
            f"{out} was made with other {', '.join(other)}; choose another out=, or delete it"
        )
    splits: Groups = record["splits"]
    return splits


def make_plan(
    pictures: Mapping[str, Path],
    captions: str | Path | None = None,
    lists: Mapping[str, str | Path | None] | None = None,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    workers: int = 2,
    partial: bool = False,
) -> tuple[Groups, Groups]:
    """Assign the usable pictures to splits; print what is left out, and why.

    Args:
        pictures: name -> file.
        captions: file of captions; without it and without lists, all pictures form one split,
            "all".
        lists: as in `itm.features.partition.partition`.
        fractions: as there.
        seed: as there.
        workers: threads that look for broken pictures.
        partial: continue although captions, lists and pictures have few names in common.

    Returns:
        Split -> pictures, and picture -> captions (empty without a caption file).

    Raises:
        ValueError: no picture can be used, or captions and pictures do not belong together.
    """
    names, own, known = list(pictures), Groups(), dict[str, str]()
    if captions is not None:
        names, own, known = _captioned(captions, pictures, partial)
    bad, alike = inspect_pictures({name: pictures[name] for name in names}, workers)
    for why in bad.values():
        print(f"left out: {why}")
    names = [name for name in names if name not in bad]
    if captions is None and not any((lists or {}).values()):
        check_drawn(fractions, seed, "pictures without captions form one split")
        splits = {"all": names}
    else:
        splits = partition(names, lists, known, fractions, seed, partial, folder_of(pictures))
    if not any(splits.values()):
        raise ValueError(f"none of the {len(pictures)} pictures can be used")
    print(", ".join(f"{split}: {len(names)} pictures" for split, names in splits.items()))
    _report_alike(alike, splits)
    return splits, own


def _report_alike(alike: Sequence[Sequence[str]], splits: Groups) -> None:
    """Print how many pictures are the same under two names, and which of them are in two splits."""
    place = {name: split for split, names in splits.items() for name in names}
    groups = [[name for name in names if name in place] for names in alike]
    groups = [names for names in groups if len(names) > 1]
    if groups:
        print(f"the same picture under several names: {len(groups)}, such as {_joined(groups[0])}")
    leaks = [names for names in groups if len({place[name] for name in names}) > 1]
    if leaks:
        print(
            f"warning: {len(leaks)} of them are in several splits, such as {_joined(leaks[0])}, so "
            "that the test is not independent of the training; remove the copies, or give "
            "splits.train=FILE and the other lists"
        )


def _joined(names: Sequence[str]) -> str:
    return " = ".join(names[:3])


def write_plan(out: Path, settings: Mapping[str, Any], splits: Groups, captions: Groups) -> None:
    """Write captions and ids of every split, then the record that `read_plan` reads."""
    out.mkdir(parents=True, exist_ok=True)
    if captions:
        write_captions(out, splits, captions)
    else:
        for split, names in splits.items():
            write_text(out / f"{split}_ids.txt", "".join(f"{name}\n" for name in names))
    write_record(out, RECORD, {"settings": settings, "splits": splits})


def _captioned(
    path: str | Path, pictures: Mapping[str, Path], partial: bool
) -> tuple[list[str], Groups, dict[str, str]]:
    """Find the pictures with captions, their captions, and their splits if the file has them.

    Raises:
        ValueError: captions and pictures do not belong together.
    """
    sentences = read_sentences(path)
    names = Names(pictures, folder_of(pictures))
    matched = names.match(sentences.captions)
    names.report()
    lost = [name for name in sentences.captions if name not in matched]
    if not matched:
        raise ValueError(
            f"no picture has the name of a caption: the captions name {lost[0]!r}, the pictures "
            f"are called {next(iter(pictures))!r}"
        )
    captions = {picture: sentences.captions[name] for name, picture in matched.items()}
    known = {
        picture: sentences.splits[name]
        for name, picture in matched.items()
        if name in sentences.splits
    }
    report_lost(
        ("captions' names without a picture", lost, len(sentences.captions)),
        ("pictures without captions", [p for p in pictures if p not in captions], len(pictures)),
        partial=partial,
    )
    sentences.report()
    return [name for name in pictures if name in captions], captions, known
