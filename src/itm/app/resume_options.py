"""Combine the recorded options of a resumed run with new ones."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from itm.app.arguments import config_dir, key_of, search_path, value_of
from itm.app.choices import SHARED, default_choices, rewrite_choices
from itm.app.config import CONF, compose
from itm.app.quoting import quote, unquote
from itm.app.sweep_options import of_one_run
from itm.runs.plain_files import CONFIGURATION
from itm.utils.manifest import unsealed
from itm.utils.nested import flatten

# Options that name a file or folder, relative to where the run was started.
FILES = (
    "data.root", "data.vocab", "data.labels", "data.concepts", "data.phrases.path",
    "data.noise_file", "word_vectors", "model.text.path", "model.concept_vectors",
    "model.pos_weight", "loss.pos_weight", "init",
)  # fmt: skip


def with_recorded(arguments: list[str], folder: Path) -> list[str]:
    """Add the options recorded in a run folder, and the folder itself unless another one is given.

    An option that is given again replaces the recorded one. If it chooses another file of a group,
    or another class of a node, the recorded options of that group no longer apply. The run's own
    --config-dir is used again, unless another one is given.

    Raises:
        FileNotFoundError: the run had a --config-dir that is gone.
        ValueError: the run was a job of a sweep whose file is not found.
    """
    own = config_dir(arguments)
    if own is None and (own := _recorded_dir(folder)) is not None:
        arguments = [f"--config-dir={own}", *arguments]
    recorded = read_recorded(folder, own)
    sweep = value_of(recorded, "sweep")
    if sweep not in (None, "null"):
        raise ValueError(
            f"{folder} was a job of sweep={sweep}, but no folder of configurations has "
            f"sweep/{sweep}.yaml, which set some of its options: give --config-dir DIR, the folder "
            "that it is in"
        )
    given = {key_of(a) for a in arguments} | {"sweep"}  # resume one job of a sweep, not all
    given |= {SHARED[key] for key in given if key in SHARED}
    given |= {key for key, full in SHARED.items() if full in given}
    dropped = {key.partition(".")[0] for key in given if key.endswith("._target_")}
    dropped |= {key_of(a) for a in arguments if a[:1] == "~" or a.partition("=")[2][:1] == "{"}
    for group, usual in default_choices().items():
        choice = value_of(arguments, group)
        if choice is not None and choice != (value_of(recorded, group) or usual):
            dropped.add("model.text" if group == "text" else group)
    kept = [
        option
        for option in recorded
        if key_of(option) not in given
        and not any(f"{key_of(option)}.".startswith(f"{node}.") for node in dropped)
    ]
    where = [] if "hydra.run.dir" in given else [quote(f"hydra.run.dir={folder}")]
    at = next(i for i, a in enumerate(arguments) if key_of(a) == "resume")
    # Adjacent, because argparse options may come before and after.
    return [*arguments[:at], *kept, *where, *arguments[at:]]


def _recorded_dir(folder: Path) -> Path | None:
    """Return the --config-dir of a run, or None.

    Raises:
        FileNotFoundError: it is gone.
    """
    own = _read_run(folder).get("config_dir")
    if isinstance(own, str) and not Path(own).is_dir():
        raise FileNotFoundError(
            f"{folder} was started with --config-dir {own}, which is not here: give --config-dir "
            "DIR, the folder that has its files now"
        )
    return Path(own) if isinstance(own, str) else None


def read_recorded(folder: Path, config_dir: Path | None = None) -> list[str]:
    """Read the options of a run; for a job of a sweep, those of that job alone.

    Args:
        folder: folder of the run.
        config_dir: folder of configurations to look for the file of a sweep in, besides our own.

    Raises:
        FileNotFoundError: run.json does not exist.
        ValueError: run.json is damaged.
    """
    found = _read_run(folder)
    overrides = [_from_there(option, found) for option in found["overrides"]]
    return of_one_run(overrides, [CONF] if config_dir is None else [config_dir, CONF])


def recorded_values(folder: Path) -> dict[str, Any]:
    """Read the values of all options when the run began, "optimizer.lr" -> "${lr}"; {} without.

    Raises:
        FileNotFoundError: run.json does not exist.
        ValueError: run.json is damaged.
    """
    config = (_read_run(folder).get(CONFIGURATION) or {}).get("config")
    return flatten(config) if isinstance(config, dict) else {}


def _from_there(option: str, run: dict[str, Any]) -> str:
    """Write a relative path of a run as absolute, unless the run was started in this folder."""
    key, value = key_of(option), unquote(option.partition("=")[2])
    there = ((run.get(CONFIGURATION) or {}).get("runtime") or {}).get("cwd")
    if key not in FILES or "${" in value or not isinstance(there, str) or there == os.getcwd():
        return option
    path = Path(there, value)
    is_there = not Path(value).is_absolute() and path.exists()
    return quote(f"{option.partition('=')[0]}={path}") if is_there else option


def _read_run(folder: Path) -> dict[str, Any]:
    """Read run.json, whose "overrides" are a list of options."""
    path = folder / "run.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no run.json, which holds the options of the run; give the checkpoint "
            f"itself and all options: resume={folder}/checkpoints/last.ckpt ..."
        )
    try:
        found: dict[str, Any] = unsealed(path, json.loads(path.read_text(encoding="utf-8")))
        overrides = found["overrides"]
        if not isinstance(overrides, list) or not all(isinstance(o, str) for o in overrides):
            raise TypeError("overrides is not a list of options")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"cannot read the options of the run in {path} ({error}); give the checkpoint itself "
            f"and all options: resume={folder}/checkpoints/last.ckpt ..."
        ) from error
    return found


def compose_options(
    arguments: Sequence[str], now: Sequence[str], with_hydra: bool = False
) -> DictConfig | None:
    """Compose arguments of `itm.train`; None if they do not compose.

    Args:
        arguments: options, recorded or given.
        now: the command line, whose --config-dir counts.
        with_hydra: keep the options of Hydra, and add its node `hydra`.
    """
    kept = [a for a in arguments if "=" in a or a.startswith("~")]  # not the value of --config-dir
    kept = [a for a in kept if not a.startswith("-") and key_of(a) not in ("sweep", "resume")]
    kept = [a for a in kept if with_hydra or not key_of(a).startswith("hydra.")]
    try:
        return compose([*rewrite_choices(kept), *search_path(now)], with_hydra=with_hydra)
    except (HydraException, OmegaConfBaseException):
        return None
