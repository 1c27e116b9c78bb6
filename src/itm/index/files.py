"""Write and read the folder of an `itm.index.Index`: tensors, FAISS files and JSON, no pickles."""

import json
from pathlib import Path
from typing import Any

from itm.checkpoints.folder import load
from itm.index.encodings import Shelf
from itm.index.nearest import Nearest
from itm.matcher.matcher import Matcher
from itm.matcher.saved import OPTIONAL, write
from itm.utils.files import check_manifest, manifest, replacing_folder

FORMAT = 1
FILES = [
    f"{side}.{end}" for side in ("images", "captions") for end in ("safetensors", "json", "faiss")
]
FILES += ["matcher/config.json", *(f"matcher/{name}" for name in OPTIONAL)]

Sides = dict[str, tuple[Shelf, list[Any]]]  # "images", "captions" -> encodings and their items


def write_index(
    folder: Path, matcher: Matcher, sides: Sides, nearest: dict[str, Nearest], shortlist: int
) -> Path:
    """Write all parts and their checksums; an earlier index stays if that fails.

    Raises:
        OSError: the folder cannot be written.
    """
    with replacing_folder(folder, last="index.json", stale=FILES) as place:
        write(matcher, place / "matcher")
        for name, (shelf, items) in sides.items():
            shelf.save(place / f"{name}.safetensors")
            nearest[name].save(place / f"{name}.faiss")
            _write(place / f"{name}.json", items)
        facts = {"format": FORMAT, "sides": list(sides), "shortlist": shortlist}
        _write(place / "index.json", {**facts, "files": manifest(place, FILES)})
    return folder


def read_index(
    folder: Path, device: str, model_class: str | None
) -> tuple[Matcher, Sides, dict[str, Nearest], int]:
    """Read what `write_index` was given.

    Raises:
        FileNotFoundError: no index there.
        ValueError: files that are broken or contradict each other.
    """
    facts = _read(folder / "index.json", dict)
    names, shortlist = facts.get("sides"), facts.get("shortlist")
    known = (["images"], ["captions"], ["images", "captions"])
    if facts.get("format") != FORMAT or names not in known:
        raise ValueError(f"{folder / 'index.json'} is not an index of this version; build it again")
    if type(shortlist) is not int or shortlist < 1:
        raise ValueError(f"{folder / 'index.json'}: shortlist is {shortlist!r}")
    matcher = load(folder / "matcher", model_class=model_class, device=device)
    sides: Sides = {}
    nearest = {}
    for name in names:
        items = _read(folder / f"{name}.json", list)
        if not all(type(item) in (str, int) for item in items):
            raise ValueError(f"{folder / name}.json must hold only strings or whole numbers")
        sides[name] = Shelf.load(folder / f"{name}.safetensors", len(items)), items
        nearest[name] = Nearest.load(folder / f"{name}.faiss", sides[name][0].vectors)
    check_manifest(folder, facts.get("files"))
    return matcher, sides, nearest, shortlist


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _read(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no index at {path.parent}: {path.name} is missing") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a {kind.__name__}")
    return content
