"""The options of one job of a sweep, without the choice of the sweep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from itm.app.arguments import key_of, value_of
from itm.app.config import CONF, config_folders, own_folders
from itm.app.quoting import as_typed, quote
from itm.utils.nested import flatten


def of_one_run(options: Sequence[str], folders: Iterable[str | Path] = (CONF,)) -> list[str]:
    """Replace `sweep=NAME`, which starts all jobs, by what its file sets for each of them.

    Args:
        options: of a job, with the values that the sweep varies.
        folders: folders of configurations; the first one that has the file counts.

    Returns:
        The options of that run alone; unchanged without `sweep=`, or if a file is missing or adds
        to the defaults in other ways than `override`.
    """
    name = value_of(options, "sweep")
    found = None if name is None else _settings(name, list(folders))
    if found is None:
        return list(options)
    given = {key_of(option) for option in options}
    shared = [quote(f"{key}={as_typed(x)}") for key, x in found.items() if key not in given]
    return [*shared, *(option for option in options if key_of(option) != "sweep")]


def options_of_job(typed: Sequence[str]) -> list[str]:
    """Return the options of the run that Hydra has begun, with its --config-dir.

    Args:
        typed: options of the command line, or of the job of a sweep.
    """
    folders = [f"--config-dir={folder}" for folder in own_folders()]
    return [*of_one_run(typed, config_folders()), *folders]


def _settings(name: str, folders: Sequence[str | Path]) -> dict[str, Any] | None:
    """Read what the file of a sweep, and those that it builds on, set outside `hydra`."""
    files = [Path(folder) / "sweep" / f"{name}.yaml" for folder in folders]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    node: Any = OmegaConf.to_container(OmegaConf.load(file))
    found: dict[str, Any] = {}
    for entry in node.pop("defaults", []):
        if isinstance(entry, str):
            other = {} if entry == "_self_" else _settings(entry, folders)
            if other is None:
                return None
            found |= other
            continue
        for key, value in entry.items():
            if not key.startswith("override "):
                return None
            found[key.removeprefix("override ").lstrip("/")] = value
    found |= flatten(node)
    return {k: v for k, v in found.items() if k.partition("/")[0].partition(".")[0] != "hydra"}
