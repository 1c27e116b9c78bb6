"""Decide whether a training run may use its folder, and how.

`use_folder` decides before Hydra writes anything, for a folder that the command line names. `claim`
decides once Hydra has made the folder of a job of a sweep, or a default one.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from itm.app.arguments import (
    MULTIRUN,
    config_dir,
    is_sweep,
    key_of,
    search_path,
    value_of,
)
from itm.app.config import compose
from itm.app.foreign import check_hydra, check_results, check_sweep
from itm.app.option_types import parse
from itm.app.processes import is_first_process
from itm.app.replaced import ASIDE, DELETED, put_aside, recover
from itm.app.resume_changes import check_changes
from itm.app.resume_options import (
    compose_options,
    read_recorded,
    recorded_values,
    with_recorded,
)
from itm.app.sweep_options import options_of_job
from itm.training.starting_point import find_checkpoint
from itm.utils.errors import InUseError, TakenError

_locks: dict[Path, int] = {}  # handles of files that stay locked until the process ends
_checked: set[Path] = set()  # folders that `use_folder` has decided on


def use_folder(arguments: Sequence[str]) -> list[str]:
    """Expand `resume=RUN_FOLDER` into that run's options, and check that the folder may be used.

    Use `resume=` for your own run folders only. Load weights from elsewhere with `init=`, which
    never reads a configuration.

    Args:
        arguments: of `itm.train`, as `itm.app.arguments.read_arguments` returns them.

    Returns:
        The arguments of the run; new options replace recorded ones.

    Raises:
        FileNotFoundError: `resume=` names a place without a checkpoint or without run.json.
        ValueError: a resumed run cannot change an option.
        TakenError: the folder already holds a run, or files of others that a run would replace.
        InUseError: another process writes to it.
    """
    arguments = list(arguments)
    if any(a in ("-c", "--cfg", "-i", "--info", "--hydra-help") for a in arguments):
        return arguments
    resume, overwrite = _flag(arguments, "resume"), _flag(arguments, "overwrite") == "true"
    given = resume if resume not in (None, "null", "true", "false") else None
    first = is_first_process()
    if given is not None and first:
        _check_checkpoint(given)
    is_run = given is not None and (not given.endswith(".ckpt") or Path(given).is_dir())
    changed = with_recorded(arguments, Path(given)) if given is not None and is_run else arguments
    if not first:
        return changed
    if overwrite and resume not in (None, "null", "false"):
        raise ValueError(f"overwrite=true deletes what resume={resume} continues: give one of them")
    if is_sweep(arguments):
        _check_multirun(arguments)
        _use_sweep_folder(arguments, overwrite, resumes=resume not in (None, "null", "false"))
        return changed
    folder = _named_folder(changed, "hydra.run.dir")
    if folder is None:
        return changed
    _checked.add(folder.resolve())
    if (folder / ASIDE).is_dir() or (folder / DELETED).is_dir():
        _lock(folder)
        recover(folder)
    is_used = _holds_run(folder)
    continues = resume == "true" or (is_run and folder.resolve() == Path(str(given)).resolve())
    if is_used and not continues:
        if overwrite:
            _lock(folder)
        _make_room([folder], overwrite, "hydra.run.dir", _differences(folder, arguments))
    elif not is_used:
        check_hydra(folder)
        check_results(folder)
    _lock(folder)
    if (folder / "run.json").is_file() and continues:
        before, kept = read_recorded(folder, config_dir(changed)), recorded_values(folder)
        check_changes(before, changed, kept)
    return changed


def claim(out: Path, resume: str | bool | None, typed: Sequence[str]) -> None:
    """Lock the folder of a run that begins; compare a resumed job of a sweep with its record.

    Args:
        out: the folder, which Hydra has made.
        resume: the option.
        typed: options of the command line.

    Raises:
        TakenError: the folder holds a run already.
        InUseError: another process writes to it.
        ValueError: a resumed job cannot change an option.
    """
    if not is_first_process():
        return
    _lock(out)
    if out.resolve() in _checked or not _holds_run(out):
        return
    if not resume and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise TakenError(
            f"{out} holds a run already, maybe of another job of this sweep: give every job a "
            "folder of its own, such as 'hydra.sweep.subdir=${hydra.job.num}'"
        )
    if not resume:
        _make_room([out], False, "hydra.run.dir")
    if resume is True and (out / "run.json").is_file():
        now = options_of_job(typed)
        varied = _varied_options() if HydraConfig.get().mode == RunMode.MULTIRUN else ()
        try:
            before, kept = read_recorded(out, config_dir(now)), recorded_values(out)
            check_changes(before, now, kept, varied)
        except ValueError as error:  # ends the sweep, and the finished jobs stay as they are
            raise TakenError(str(error)) from error


def _varied_options() -> set[str]:
    """Return the options that the sweep of this job varies."""
    cfg = HydraConfig.get()
    path = Path(cfg.sweep.dir) / "multirun.yaml"  # Hydra writes the options of a sweep there
    typed = OmegaConf.select(OmegaConf.load(path), "hydra.overrides.task") if path.is_file() else []
    varied = {x.get_key_element() for x in parse(list(typed or [])) if x.is_sweep_override()}
    return varied | set((cfg.sweeper.get("params") or {}).keys())


def _flag(arguments: Sequence[str], key: str) -> str | None:
    """Return the value of an option; true, false and null as Hydra writes them."""
    value = value_of(arguments, key)
    return value.lower() if value and value.lower() in ("true", "false", "null") else value


def _named_folder(arguments: Sequence[str], option: str) -> Path | None:
    """Return the folder that the command line names, with its references resolved.

    Returns:
        None if it names none, or one that is new for each run (`${now:...}`).
    """
    named = value_of(arguments, option)
    if named is None or "${now:" in named:
        return None
    if "${" in named:
        cfg = compose_options(arguments, arguments, with_hydra=True)
        if cfg is None:
            return None  # a wrong option; Hydra reports it next
        HydraConfig.instance().set_config(cfg)  # which ${hydra:...} reads
        named = OmegaConf.select(cfg, option)
    return Path(str(named))


def _holds_run(folder: Path) -> bool:
    return (folder / "run.json").is_file() or any(folder.glob("checkpoints/*.ckpt"))


def _check_multirun(arguments: Sequence[str]) -> None:
    """Check that `sweep=` starts several jobs: some of its files only choose where jobs run.

    Raises:
        ValueError: Hydra would start one run.
    """
    if any(a in MULTIRUN for a in arguments):
        return
    name = value_of(arguments, "sweep")
    try:
        cfg = compose([f"sweep={name}", *search_path(arguments)], with_hydra=True)
    except HydraException:
        return  # no such file: Hydra names it when the run starts
    if cfg.hydra.mode != RunMode.MULTIRUN:
        raise ValueError(f"sweep={name} only chooses where jobs run: add -m, or leave it out")


def _use_sweep_folder(arguments: Sequence[str], overwrite: bool, resumes: bool) -> None:
    """Check that `hydra.sweep.dir` holds no jobs of an earlier sweep."""
    out = _named_folder(arguments, "hydra.sweep.dir")
    if out is None:
        return
    if not resumes:
        check_sweep(out)
    _lock(out, "hydra.sweep.dir")  # Hydra writes there before the jobs lock their own folders
    if resumes:
        return
    for name in (ASIDE, DELETED):
        for place in out.glob(f"*/{name}"):
            recover(place.parent)
    if jobs := sorted(path.parent for path in out.glob("*/run.json")):
        _make_room(jobs, overwrite, "hydra.sweep.dir")


def _make_room(
    folders: Sequence[Path], overwrite: bool, option: str, differences: str = ""
) -> None:
    """Move earlier runs aside if `overwrite` is set.

    Args:
        folders: folders of the runs.
        overwrite: whether to replace them.
        option: option that names the folder on the command line.
        differences: how the options of the runs differ from the new ones, for the message.

    Raises:
        TakenError: it is not set, or `itm.train` did not write the files.
    """
    if not overwrite:
        raise TakenError(
            f"{folders[0]} holds a run already{differences}: continue it with resume=true, replace "
            f"it with overwrite=true, or give another {option}"
        )
    put_aside(folders)


def _differences(folder: Path, arguments: Sequence[str]) -> str:
    """Say which options only the run in a folder has (-), and which only the new run has (+)."""
    try:
        recorded = read_recorded(folder)
    except (OSError, ValueError):
        return ""
    own = [a for a in arguments if ("=" in a or a[:1] == "~") and key_of(a) != "overwrite"]
    own = [a for a in own if not key_of(a).startswith("hydra.")]
    changes = [f"-{a}" for a in recorded if a not in own] + [
        f"+{a}" for a in own if a not in recorded
    ]
    return f", with other options ({' '.join(changes)})" if changes else ""


def _check_checkpoint(given: str) -> None:
    with redirect_stdout(io.StringIO()):  # the run itself prints which one it uses
        find_checkpoint(given, Path(given))


def _lock(folder: Path, option: str = "hydra.run.dir") -> None:
    """Lock a folder until this process ends.

    Args:
        folder: it is made if it does not exist.
        option: option that names it.

    Raises:
        InUseError: another process has locked it.
        OSError: the folder cannot be made, or nothing can be written there.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    path = folder.resolve() / ".lock"
    if path in _locks:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OSError(f"nothing can be written to {option}={folder}: {error}") from error
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InUseError(f"{folder} is in use: another process trains there") from None
    except OSError:
        os.close(handle)
        return  # a file system without locks
    _locks[path] = handle
