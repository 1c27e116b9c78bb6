"""Write and read the folder of an `itm.index.Index`: tensors, FAISS files and JSON, no pickles."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

from itm.checkpoints.folder import load
from itm.index.encodings import Shelf
from itm.index.nearest import Nearest
from itm.matcher.matcher import Matcher
from itm.matcher.saved import NAMES as MATCHER_FILES
from itm.matcher.saved import write
from itm.utils.changes import State, state_of
from itm.utils.errors import TakenError
from itm.utils.files import write_json
from itm.utils.folders import check_own, read_whole, replacing_folder
from itm.utils.manifest import check_checksums, read_manifest, write_manifest
from itm.utils.readers import read_json, reader

FORMAT = 1
INDEX = "index.json"
BESIDE = "index"  # subfolder of a folder whose files have the names of an index
SIDES = ("images", "captions")
NAMES = [
    *(f"{side}.{end}" for side in SIDES for end in ("safetensors", "json", "faiss")),
    *(f"matcher/{name}" for name in MATCHER_FILES),
]

Sides = dict[str, tuple[Shelf, list[Any]]]  # "images", "captions" -> encodings and their items
# Matcher, sides, nearest neighbours of each side, shortlist, digest of the features.
Parts = tuple[Matcher, Sides, dict[str, Nearest], int, str | None]


def write_index(
    folder: Path,
    matcher: Matcher,
    sides: Sides,
    nearest: dict[str, Nearest],
    shortlist: int,
    digest: str | None,
) -> Path:
    """Write all parts and their checksums; if that fails, an earlier index stays.

    If files of others have these names, the index goes into the subfolder `index`, with a warning:
    to refuse would lose encodings that may have taken hours.

    Returns:
        The folder of the index.

    Raises:
        TakenError: the subfolder holds such files as well.
        OSError: the folder cannot be written.
    """
    try:
        check_place(folder)
    except TakenError:
        place = folder / BESIDE
        check_place(place)
        what = f"{folder} holds files of others with the names of an index"
        warnings.warn(f"{what}; the index is written to {place}", stacklevel=3)
        folder = place
    with replacing_folder(folder, INDEX, NAMES, is_index) as place:
        (place / "matcher").mkdir()
        write(matcher, place / "matcher")
        for name, (shelf, items) in sides.items():
            shelf.save(place / f"{name}.safetensors")
            nearest[name].save(place / f"{name}.faiss")
            write_json(place / f"{name}.json", items)
        facts = {"format": FORMAT, "sides": list(sides), "shortlist": shortlist, "features": digest}
        write_manifest(place / INDEX, facts, NAMES)
    return folder


def check_place(folder: Path) -> None:
    """Check that an index may be written to a folder.

    Raises:
        TakenError: files with the names of an index are there, but no index.
    """
    check_own(folder, INDEX, NAMES, is_index)


def is_index(path: Path) -> bool:
    """Whether an index.json is that of an index."""
    try:
        return {"format", "sides", "shortlist"} <= read_json(path).keys()
    except (OSError, ValueError):
        return False


def mapped_files(folder: Path | None) -> dict[Path, State | None]:
    """Return the state of the files of an index that stay mapped; none without a folder."""
    if folder is None:
        return {}
    files = (folder / f"{side}.{end}" for side in SIDES for end in ("safetensors", "faiss"))
    return {path: state_of(path) for path in files}


@reader(path="folder")
def read_index(folder: Path, device: str, model_class: str | None) -> Parts:
    """Read what `write_index` was given.

    Raises:
        FileNotFoundError: no index there.
        ValueError: files are damaged or contradict each other.
    """
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"no index at {folder}: {INDEX} is missing")
    return read_whole(folder / INDEX, partial(_read, folder, device, model_class))


def _read(folder: Path, device: str, model_class: str | None) -> Parts:
    facts, files = read_manifest(folder / INDEX)
    names, shortlist = facts.get("sides"), facts.get("shortlist")
    known = (["images"], ["captions"], ["images", "captions"])
    if facts.get("format") != FORMAT or names not in known:
        raise ValueError(f"{folder / INDEX} is not an index of this version; build it again")
    if type(shortlist) is not int or shortlist < 1:
        raise ValueError(f"{folder / INDEX}: shortlist must be at least 1, got {shortlist!r}")
    check_checksums(folder, files)  # before FAISS, which checks little, reads its files
    matcher = load(folder / "matcher", model_class=model_class, device=device)
    sides: Sides = {}
    nearest = {}
    for name in names:
        items = read_json(folder / f"{name}.json", list)
        if not all(type(item) in (str, int) for item in items):
            raise ValueError(f"{folder / name}.json must hold only strings or whole numbers")
        if name == "images" and len(set(items)) < len(items):
            raise ValueError(f"{folder / name}.json names two images alike")
        sides[name] = Shelf.load(folder / f"{name}.safetensors", len(items)), items
        nearest[name] = Nearest.load(folder / f"{name}.faiss", sides[name][0].vectors)
    digest = facts.get("features")  # earlier versions wrote none
    return matcher, sides, nearest, shortlist, digest if isinstance(digest, str) else None
