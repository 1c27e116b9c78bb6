"""Combine the recorded options of a resumed run with new ones, and check which may differ."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from itm.app.arguments import config_dir, key_of, search_path, value_of
from itm.app.choices import SHARED, default_choices, rewrite_choices
from itm.app.config import CONF, compose
from itm.app.quoting import quote, unquote
from itm.app.sweep_options import of_one_run
from itm.runs.plain_files import CONFIGURATION
from itm.utils.log_files import log_later
from itm.utils.manifest import unsealed
from itm.utils.nested import flatten

# A resumed run may change these. All others affect weights, words or batches.
FREE = (
    "max_epochs", "gradient_clip_val", "margin", "warmup_steps", "warmup_epochs", "lr",
    "weight_decay", "step_size", "gamma",
    "test", "compile", "chunk_size", "deterministic", "trainer", "callbacks", "logger", "loss",
    "optimizer", "scheduler", "decay", "data.batch_size", "data.eval_batch_size", "data.workers",
    "data.pin_memory", "data.cache_words", "data.resident", "data.root", "data.test",
    "data.protocol", "resume", "overwrite", "model.text.path",
)  # fmt: skip
# These are, too: the first three rows set values that the checkpoint holds and restores.
FIXED = (
    "loss.temperature", "loss.learn", "loss.scale", "loss.bias", "loss.init_negative_scale",
    "loss.init_shift", "loss.pos_weight", "loss.num_labels", "optimizer.betas",
    "optimizer.momentum", "optimizer.amsgrad", "optimizer.centered",
    "loss._target_", "optimizer._target_", "scheduler._target_", "callbacks.checkpoint.monitor",
    "callbacks.checkpoint.mode",
)  # fmt: skip
# Options of schedules that are applied to a restored one; all others are part of its state.
APPLIED = (
    "step_size", "gamma", "total", "warmup", "end", "factor", "patience", "cooldown", "threshold",
    "monitor", "T_max", "eta_min", "start_factor", "end_factor", "total_iters", "power",
)  # fmt: skip
RATES = ("lr", "optimizer.lr")  # a plateau schedule keeps only the current rate
# Options that name a file or folder, relative to where the run was started.
FILES = (
    "data.root", "data.vocab", "data.labels", "data.concepts", "data.phrases.path",
    "data.noise_file", "word_vectors", "model.text.path", "model.concept_vectors",
    "model.pos_weight", "loss.pos_weight", "init",
)  # fmt: skip
# OneCycleLR plans all steps at the beginning.
PLANNED = (
    *RATES, "max_epochs", "trainer.max_epochs", "trainer.max_steps", "data.batch_size",
    "trainer.accumulate_grad_batches", "trainer.limit_train_batches",
)  # fmt: skip


def with_recorded(arguments: list[str], folder: Path) -> list[str]:
    """Add the options recorded in a run folder, and the folder itself.

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
    dropped |= {key_of(a) for a in arguments if a.partition("=")[2].startswith("{")}
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
    where = quote(f"hydra.run.dir={folder}")
    at = next(i for i, a in enumerate(arguments) if key_of(a) == "resume")
    # Adjacent, because argparse options may come before and after.
    return [*arguments[:at], *kept, where, *arguments[at:]]


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


def check_changes(before: Sequence[str], now: Sequence[str]) -> None:
    """Compare a run's options with those that it is resumed with; print what changes.

    Raises:
        ValueError: an option differs that a resumed run cannot change.
    """
    old, new = compose_options(before, now), compose_options(now, now)
    if old is None or new is None:
        return  # a wrong option; Hydra reports it next
    changes = _changes(old, new)
    kind = str((new.get("scheduler") or {}).get("_target_")).rpartition(".")[2]
    shown = {name: f"{name} {a} -> {b}" for name, (a, b) in changes.items()}
    wrong = [name for name in shown if _is_fixed(name, changes[name], kind)]
    # Another class has other options, which would only hide it.
    classes = tuple(name.removesuffix("_target_") for name in wrong if name.endswith("._target_"))
    fixed = [shown[x] for x in wrong if x.endswith("._target_") or not x.startswith(classes)]
    planned = kind == "OneCycleLR" and set(wrong) <= set(PLANNED)
    if fixed:
        raise ValueError(
            f"a resumed run cannot change {', '.join(fixed)}: weights, words, order of the "
            "batches, best score and state of loss, optimiser and schedule belong to the recorded "
            "options; start another run, from these weights with init=RUN_FOLDER"
            + (". scheduler=onecycle planned all its steps at the beginning" if planned else "")
        )
    told = [text for name, text in shown.items() if name not in ("resume", "overwrite")]
    if told:
        changed = ", ".join(told)
        warning = f"warning: resuming with other options than before: {changed}"
        print(warning)
        log_later(warning)  # Hydra has not opened train.log yet


def _is_fixed(name: str, values: tuple[Any, Any], schedule: str) -> bool:
    """Tell whether a resumed run cannot change an option.

    Args:
        name: name of the option.
        values: the recorded and the new value.
        schedule: name of the schedule's class.
    """
    if name in FIXED or not any(f"{name}.".startswith(f"{free}.") for free in FREE):
        return True
    if (
        schedule == "OneCycleLR"
        and name in PLANNED
        or schedule.endswith("Plateau")
        and name in RATES
    ):
        return True
    group, _, last = name.rpartition(".")
    if last == "_target_" and any(str(x).endswith("WeightAveraging") for x in values):
        return True  # the checkpoint's weights are an average, or not
    if group == "scheduler" and last not in APPLIED:
        return True
    return last == "step_size" and None in values  # with and without a schedule


def _changes(old: DictConfig, new: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Map options whose text and value differ to both values."""
    before, now = flatten(OmegaConf.to_container(old)), flatten(OmegaConf.to_container(new))
    changes = {}
    for name in {**before, **now}:
        values = _resolved(old, before, name), _resolved(new, now, name)
        if before.get(name) != now.get(name) and values[0] != values[1]:
            changes[name] = values
    return changes


def _resolved(cfg: DictConfig, flat: dict[str, Any], name: str) -> Any:
    """Get a value; a reference such as ${lr} is looked up, except for those to Hydra."""
    try:
        return OmegaConf.select(cfg, name) if "${" in str(flat.get(name)) else flat.get(name)
    except OmegaConfBaseException:
        return flat[name]


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
