"""Decide, before Hydra writes anything, whether a training run may use its folder, and how."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from itm.app.arguments import quote, replace_nodes, unquote
from itm.app.config import compose

# What a run may be resumed with. All else decides which weights, words and batches it has.
FREE = (
    "max_epochs", "gradient_clip_val", "margin", "warmup_steps", "warmup_epochs", "test", "compile",
    "chunk_size", "deterministic", "trainer", "callbacks", "logger", "loss", "optimizer",
    "scheduler", "decay", "data.batch_size", "data.eval_batch_size", "data.workers",
    "data.pin_memory", "data.resident", "data.root", "data.val", "data.val_images", "data.test",
    "data.protocol", "resume", "overwrite",
)  # fmt: skip
FIXED = ("optimizer._target_", "scheduler._target_")
WRITTEN = (
    "run.json",
    "results.json",
    "ranks.npz",
    "failure.txt",
    "train.log",
    "csv",
    "checkpoints",
    ".hydra",
)

_locks: list[Any] = []  # files that stay locked until the process ends


def use_folder(arguments: Sequence[str]) -> list[str]:
    """Expand `resume=RUN_FOLDER` into that run's options, and check that the folder may be used.

    Use `resume=` for your own run folders only. Load weights from elsewhere with `init=`, which
    never reads a configuration.

    Args:
        arguments: of `itm.train`, as `itm.app.arguments.read_arguments` returns them.

    Returns:
        The arguments of the run; new options win over the recorded ones.

    Raises:
        FileNotFoundError: `resume=` names a place without a checkpoint or without run.json.
        ValueError: an option that a resumed run cannot change, or a folder that holds a run
            already, or that another process writes to.
    """
    arguments = list(arguments)
    if any(a in ("-h", "--help", "-c", "--cfg", "-i", "--info") for a in arguments):
        return arguments
    resume = _value(arguments, "resume")
    given = resume if resume not in (None, "null", "true", "false") else None
    first = _is_first_process()
    if given is not None and first:
        _check_checkpoint(given)
    changed = arguments
    if given is not None and not given.endswith(".ckpt"):
        changed = _with_recorded(arguments, Path(given))
    out = _value(changed, "hydra.run.dir")
    if not first:
        return changed
    overwrite = _value(arguments, "overwrite") == "true"
    if overwrite and resume not in (None, "null", "false"):
        raise ValueError(f"overwrite=true deletes what resume={resume} continues: give one of them")
    if "-m" in arguments or "--multirun" in arguments or _value(arguments, "sweep"):
        out = _value(arguments, "hydra.sweep.dir")
        jobs = [] if out is None else sorted(p.parent for p in Path(out).glob("*/run.json"))
        for job in jobs if resume is None else []:
            _make_room(job, overwrite, changed)
        return changed
    if out is None or "${" in out:
        return changed
    folder = Path(out)
    is_used = (folder / "run.json").is_file() or any(folder.glob("checkpoints/*.ckpt"))
    if is_used and (given is None or given.endswith(".ckpt")) and resume != "true":
        if overwrite:
            _lock(folder)
        _make_room(folder, overwrite, changed)
    _lock(folder)
    if (folder / "run.json").is_file() and resume is not None and not _is_ckpt(given):
        check_changes(_recorded(folder), changed)
    return changed


def check_changes(before: Sequence[str], now: Sequence[str]) -> None:
    """Compare a run's options with those that it is resumed with; print what changes.

    Raises:
        ValueError: an option changes that a resumed run cannot change.
    """
    old, new = _options(before, now), _options(now, now)
    if old is None or new is None:
        return  # a wrong option: Hydra, which comes next, says so
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    fixed = [n for n in names if n in FIXED or not any(f"{n}.".startswith(f"{f}.") for f in FREE)]
    told = lambda n: f"{n} {_short(old, n)} -> {_short(new, n)}"  # noqa: E731
    if fixed:
        raise ValueError(
            f"a resumed run cannot change {', '.join(map(told, fixed))}: weights, words, order of "
            "the batches and state of the optimiser belong to the recorded options; start another "
            "run, from these weights with init=RUN_FOLDER"
        )
    shown = [n for n in names if n not in ("resume", "overwrite")]
    if shown:
        print(f"resuming with other options than before: {', '.join(map(told, shown))}")


def _short(options: dict[str, Any], name: str) -> str:
    return str(options[name]) if name in options else "(none)"


def _options(arguments: Sequence[str], now: Sequence[str]) -> dict[str, Any] | None:
    """Compose arguments to flat options; None if they do not compose."""
    kept = [a for a in arguments if not a.startswith("-") and _key(a) not in ("sweep", "resume")]
    kept = [a for a in kept if not _key(a).startswith("hydra.")]
    own = _config_dir(now)
    search = [] if own is None else [f"hydra.searchpath=[{quote(f'init=file://{own}')[5:]}]"]
    try:
        cfg = compose([*replace_nodes(kept), *search])
        plain: Any = OmegaConf.to_container(cfg)
    except (HydraException, OmegaConfBaseException):
        return None
    return _flat(plain)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _config_dir(arguments: Sequence[str]) -> Path | None:
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config-dir", "-cd"):
            return Path(value if equals else arguments[i + 1]).resolve()
    return None


def _key(argument: str) -> str:
    return argument.lstrip("+~").partition("=")[0]


def _value(arguments: Sequence[str], key: str) -> str | None:
    """Find the last value of an option, without quotes."""
    found = [a.partition("=")[2] for a in arguments if "=" in a and _key(a) == key]
    return unquote(found[-1]) if found else None


def _is_ckpt(given: str | None) -> bool:
    return given is not None and given.endswith(".ckpt")


def _is_first_process() -> bool:
    """Tell by what launchers set: Lightning's own, torchrun, SLURM."""
    names = ("LOCAL_RANK", "RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def _check_checkpoint(given: str) -> None:
    from itm.training.resume import find_checkpoint  # late, since it brings Lightning

    with redirect_stdout(io.StringIO()):  # the run itself says which one it takes
        find_checkpoint(given, Path(given))


def _with_recorded(arguments: list[str], folder: Path) -> list[str]:
    """Add the options recorded in a run folder, and the folder itself."""
    keys = {_key(a) for a in arguments} | {"sweep"}  # one job of a sweep, not all
    nodes = {key.partition(".")[0] for key in keys if key.endswith("._target_")}
    nodes |= {_key(a) for a in arguments if a.partition("=")[2].startswith("{")}
    kept = [
        b
        for b in _recorded(folder)
        if _key(b) not in keys and _key(b).partition(".")[0] not in nodes
    ]
    where = quote(f"hydra.run.dir={folder}")
    at = next(i for i, a in enumerate(arguments) if _key(a) == "resume")
    # Together: options of argparse may stand around them.
    return [*arguments[:at], *kept, where, *arguments[at:]]


def _recorded(folder: Path) -> list[str]:
    """Read the options of a run.

    Raises:
        FileNotFoundError: no run.json.
        ValueError: a damaged run.json.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no run.json, which holds the options of the run; give the checkpoint "
            f"itself and all options: resume={folder}/checkpoints/last.ckpt ..."
        )
    try:
        overrides = json.loads(path.read_text(encoding="utf-8"))["overrides"]
        if not isinstance(overrides, list) or not all(isinstance(o, str) for o in overrides):
            raise TypeError("overrides is not a list of options")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"cannot read the options of the run in {path} ({error}); give the checkpoint itself "
            f"and all options: resume={folder}/checkpoints/last.ckpt ..."
        ) from error
    return overrides


def _make_room(folder: Path, overwrite: bool, arguments: Sequence[str]) -> None:
    """Delete an earlier run, if that was asked for.

    Nothing is deleted when the options of the new run are wrong: Hydra, which comes next, says so.

    Raises:
        ValueError: it was not asked for, or `itm.train` did not write what is there.
    """
    if not overwrite:
        raise ValueError(
            f"{folder} holds a run already: continue it with resume=true, replace it with "
            "overwrite=true, or give another hydra.run.dir"
        )
    if not (folder / "run.json").is_file():
        raise ValueError(
            f"{folder} holds checkpoints but no run.json, so overwrite=true does not delete them: "
            "remove them yourself, or give another hydra.run.dir"
        )
    if _options(arguments, arguments) is None and "-m" not in arguments:
        return
    for name in WRITTEN:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _lock(folder: Path) -> None:
    """Keep a folder for this process until it ends.

    Raises:
        ValueError: another process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    path = folder.resolve() / ".lock"
    if any(file.name == str(path) for file in _locks):
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(f"{folder} is in use: another process trains there") from None
    except OSError:
        return  # a file system without locks
    _locks.append(file)
