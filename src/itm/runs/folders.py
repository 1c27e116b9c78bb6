"""Find the folders that hold runs, and say why one of them has no results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from itm.runs.plain_files import read_record
from itm.runs.record import FAILURE
from itm.runs.run_files import SETTINGS

RUN, REPORT, RESULTS = "run.json", "report.json", "results.json"
# Inside a run folder: what `overwrite=true` replaces, until the new run has trained a step.
SKIPPED = (".replaced", ".deleted")


def run_folders(place: Path) -> list[Path]:
    """List the folders at and below a place that hold files of runs; job 10 after job 9.

    Links to folders are followed after all other folders. A folder is entered once, and none that
    holds the place itself, so that loops end.
    """
    found, seen, waiting = [], set(), [place]
    top = place.resolve()
    while waiting:
        for here, below, files in os.walk(waiting.pop(0)):
            real = Path(here).resolve()
            if real in seen or (real != top and top.is_relative_to(real)):
                below.clear()
                continue
            seen.add(real)
            below[:] = [name for name in below if name not in SKIPPED]
            waiting += sorted(Path(here, x) for x in below if Path(here, x).is_symlink())
            if not {RUN, REPORT, SETTINGS, RESULTS}.isdisjoint(files):
                found.append(Path(here))
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[Any]:
    """Sort job 10 after job 9."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else part) for part in path.parts]


def name_below(folder: Path, place: Path) -> str:
    """Name a folder by its path below the place that was searched, and the place itself."""
    relative = folder.relative_to(place).as_posix()
    return place.resolve().name if relative == "." else f"{place.resolve().name}/{relative}"


def why_unfinished(folder: Path) -> str:
    """Say why a run has no results."""
    failure = folder / FAILURE
    if failure.is_file():
        return f"failed: {failure.read_text(encoding='utf-8', errors='replace').strip()[:500]}"
    if (folder / RESULTS).is_file():
        return "resumed and not finished since; results of the earlier attempt are not shown"
    return "not finished"


def why_nameless(folder: Path) -> str:
    """Say what results of a training lack if neither run.json nor settings.yaml is beside them.

    Returns:
        The reason; "" if results.json is of something else, such as a report or a saved matcher.

    Raises:
        ValueError: a damaged record.
    """
    others = ("results.csv", "model.safetensors")  # of a report, of a saved matcher
    if any((folder / name).is_file() for name in others):
        return ""
    if not any(key.startswith(("val/", "test/")) for key in read_record(folder / RESULTS)):
        return ""
    return (
        f"its settings are lost: results.json has neither {RUN} (of a run) nor {SETTINGS} (of a "
        "record) beside it; restore the file, or keep= the run again"
    )
