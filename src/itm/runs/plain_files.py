"""Read JSON and YAML of any origin: plain values only, of limited size."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from itm.utils.manifest import unsealed

CONFIGURATION = "configuration"  # in run.json: "config" and "runtime", as `read_hydra` returns them
TEXT_LIMIT = 2**26  # bytes; larger files of this kind were not written by a run
DEEPEST = 100  # levels of nesting; a configuration has a handful
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, if PyYAML was built with it


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON record such as results.json.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged.
    """
    try:
        record = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is damaged ({error})") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path.name} holds a {type(record).__name__}, expected a JSON object")
    return unsealed(path, record)


def read_yaml(path: Path) -> Any:
    """Read plain YAML.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        text = _text(path)
        _check_plain(text)
        return yaml.load(text, LOADER)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path.name} is damaged ({error})") from error


def _check_plain(text: str) -> None:
    """Refuse references inside a file, which can expand a few lines to gigabytes, and deep nesting.

    Raises:
        yaml.YAMLError: the text is not YAML, has a reference, or is nested too deeply.
    """
    depth = 0
    for event in yaml.parse(text, LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("references (*) are not read")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise yaml.YAMLError(f"nested more than {DEEPEST} levels deep")


def _text(path: Path) -> str:
    if path.stat().st_size > TEXT_LIMIT:
        raise ValueError(f"{path.name} has more than {TEXT_LIMIT} bytes")
    return path.read_text(encoding="utf-8")


def kept_configuration(run: Path) -> dict[str, Any]:
    """Read the configuration that a run was started with.

    It stands in run.json, with a checksum. Hydra's own record in `.hydra` has none, and every
    attempt to continue the run rewrites it; it is read for runs of earlier versions only.

    Returns:
        "config" and "runtime" (choices of the groups, working folder); {} without any record.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged.
    """
    record = read_record(run / "run.json") if (run / "run.json").is_file() else {}
    if isinstance(record.get(CONFIGURATION), dict):
        return record[CONFIGURATION]
    return read_hydra(run)


def read_hydra(run: Path) -> dict[str, Any]:
    """Read "config" and "runtime" from what Hydra wrote; {} if it wrote nothing.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged.
    """
    path = run / ".hydra" / "config.yaml"
    if not path.is_file():
        return {}
    hydra = path.with_name("hydra.yaml")
    node = read_yaml(hydra) if hydra.is_file() else {}
    for key in ("hydra", "runtime"):
        node = node.get(key) if isinstance(node, dict) else None
    runtime = node if isinstance(node, dict) else {}
    return {"config": read_yaml(path), "runtime": {x: runtime.get(x) for x in ("choices", "cwd")}}


def run_of(checkpoint: Path) -> Path | None:
    """Find the run folder that a checkpoint belongs to: the folder itself, or one above a file."""
    places = [checkpoint, *checkpoint.absolute().parents][:3]
    return next((place for place in places if (place / "run.json").is_file()), None)


def data_name(folder: str | Path) -> str:
    """Name a data folder in titles: its last part, without the digest of drawn scenes."""
    return re.sub(r"^(scenes)-[0-9a-f]{12}$", r"\1", Path(folder).name)
