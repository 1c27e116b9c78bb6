"""Write and read the folder of an `itm.index.Index`: tensors, FAISS files and JSON, no pickles."""

import json
from pathlib import Path
from typing import Any

from itm.checkpoints.folder import load
from itm.index.encodings import Shelf
from itm.index.nearest import Nearest
from itm.matcher.matcher import Matcher
from itm.matcher.saved import save

FORMAT = 1

Sides = dict[str, tuple[Shelf, list[Any]]]  # "images", "captions" -> encodings and their items


def write_index(
    folder: Path, matcher: Matcher, sides: Sides, nearest: dict[str, Nearest], shortlist: int
) -> Path:
    """Write all parts; index.json last, so that where it is everything is."""
    (folder / "index.json").unlink(missing_ok=True)
    save(matcher, folder / "matcher")
    for name, (shelf, items) in sides.items():
        shelf.save(folder / f"{name}.safetensors")
        nearest[name].save(folder / f"{name}.faiss")
        _write(folder / f"{name}.json", items)
    _write(folder / "index.json", {"format": FORMAT, "sides": list(sides), "shortlist": shortlist})
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
        raise ValueError(f"{folder / 'index.json'} was written by another version; build it again")
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
    return matcher, sides, nearest, shortlist


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _read(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no index at {path.parent}: {path.name} is missing") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error})") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a {kind.__name__}")
    return content
