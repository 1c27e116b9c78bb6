"""Run a command: print readable errors instead of tracebacks, and silence useless notices."""

import contextlib
import functools
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from itm.app.arguments import read_arguments, tell_repeated
from itm.app.config import CONF
from itm.app.data_options import check_data_options
from itm.app.option_types import check_types
from itm.app.plain_errors import EXPECTED, is_expected, without_call
from itm.app.signals import stopped_by_signals
from itm.utils.closed_output import quiet_if_closed
from itm.utils.log_files import log

Task = Callable[[DictConfig], Any]
Prepare = Callable[[list[str]], list[str]]


def run(command: str, task: Task, prepare: Prepare | None = None) -> None:
    """Run a command of the library; report an expected error in one line, without a traceback.

    Expected are `ValueError`, `OSError` (a missing file, a full disk), `ImportError` (a missing
    extra) and the errors that Hydra raises about the configuration. If the reader of the output
    closes it (`| head`), the command ends quietly.

    Args:
        command: name of the command and of its configuration.
        task: what it does with the configuration.
        prepare: changes the command line before Hydra reads it and writes anything.
    """
    quiet()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints and exits by itself
    if not getattr(sys.flags, "safe_path", False):
        # For models of your own: `python -m` looks in the current folder, itm-train does not.
        with contextlib.suppress(FileNotFoundError):  # a folder that was deleted
            sys.path.append(os.getcwd())
    with quiet_if_closed():
        if not _answer(command, sys.argv[1:]):
            with stopped_by_signals():
                _run(command, task, prepare)


def _answer(command: str, arguments: list[str]) -> bool:
    """Print the version or the help, if asked for."""
    if "--version" in arguments:
        from itm import __version__

        print(f"itm {__version__}")
        return True
    if {"-h", "--help", "help"} & set(arguments):
        from itm.app.help import help_page  # late: training need not wait for it

        try:
            options = [argument for argument in arguments if argument != "help"]
            page = help_page(command, read_arguments(options, command))
        except EXPECTED as error:
            fail(_explained(error, command, arguments))
        print(page)
        return True
    return False


def _run(command: str, task: Task, prepare: Prepare | None) -> None:
    try:
        tell_repeated(sys.argv[1:])
        sys.argv[1:] = read_arguments(sys.argv[1:], command)
        check_types(command, sys.argv[1:])
        check_data_options(command, sys.argv[1:])
        if prepare is not None:
            sys.argv[1:] = read_arguments(prepare(sys.argv[1:]), command)
    except EXPECTED as error:
        fail(error)
    try:
        call(command, task)
    except BrokenPipeError:
        raise
    except Exception as error:
        fail(_explained(error, command, sys.argv[1:]))


def call(command: str, task: Task) -> None:
    """Compose the configuration of a command from `sys.argv` and call a task with it.

    An error of the task is raised as it is: Hydra would print all options before it.
    """
    errors: list[Exception] = []

    @functools.wraps(task)
    def guarded(cfg: DictConfig) -> Any:
        try:
            return task(cfg)
        except Exception as error:
            errors.append(error)
            raise SystemExit(1) from error

    try:
        hydra.main(version_base="1.3", config_path=CONF, config_name=command)(guarded)()
    except SystemExit:
        if errors:
            raise errors[0] from errors[0].__cause__
        raise


def _explained(error: Exception, command: str, arguments: list[str]) -> Exception:
    """Replace an error that a wrong option caused by one that names the option."""
    from itm.app.wrong_options import diagnose  # late: its imports are slow

    wrong = None if os.environ.get("ITM_TRACEBACK") else diagnose(error, command, arguments)
    return error if wrong is None else ValueError(wrong)


def fail(error: BaseException) -> NoReturn:
    """End the process: print one line for an expected error, the traceback for any other."""
    tell(error)
    raise SystemExit(1)


def tell(error: BaseException) -> str:
    """Print an error as `fail` does, and append it to train.log.

    Returns:
        The error in one line.
    """
    if isinstance(error, InstantiationException):
        error = without_call(error)
    if not is_expected(error) or os.environ.get("ITM_TRACEBACK"):
        traceback.print_exception(error)
        log("".join(traceback.format_exception(error)))
        return f"{type(error).__name__}: {error}".splitlines()[0]
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    text = str(error) if str(cause) in str(error) else f"{error}: {cause}"
    if isinstance(error, ImportError):
        from itm.utils.extras import missing_package

        text = missing_package(error)
    log(f"error: {text}")
    print(f"error: {text}\n(set ITM_TRACEBACK=1 for the traceback)", file=sys.stderr)
    return " ".join(text.split())


def fail_alone(error: BaseException) -> None:
    """End this process with an error if it is one of several; return if it is the only one."""
    from itm.utils.distributed import rank_and_size  # late, because it loads torch

    if rank_and_size()[1] > 1:
        tell(error)
        leave_several()


def leave_several() -> None:
    """End this process if it is one of several.

    The other processes wait in the failed job, so this one must not continue with the next job of
    a sweep.
    """
    from itm.utils.distributed import rank_and_size  # late, as above

    rank, processes = rank_and_size()
    if processes > 1:
        hint = "if it lost its connection or timed out, another one failed first"
        print(f"process {rank} of {processes} ends; {hint}", file=sys.stderr)
        raise SystemExit(1)


def quiet() -> None:
    """Silence notices of other packages that a user can do nothing about."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for name in ("matplotlib", "faiss", "pytorch_lightning.trainer.connectors.signal_connector"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # the error follows in one line
    for message in (
        ".*isinstance.treespec, LeafSpec.*",  # Lightning on recent torch
        ".*does not have many workers.*",  # data.workers is the user's choice
        ".*lr_scheduler.step.*before.*optimizer.step.*",  # skipped steps of fp16 scaling
        "Checkpoint directory .* exists and is not empty",  # resumed runs write where they were
        "It is recommended to use .*sync_dist=True",  # metrics are of the whole split already
        "Found .* in eval mode at the start of training",  # a frozen transformer is meant to be
        ".*could not find the monitored key",  # checked before, so no validation ran
        "Be aware that when using `ckpt_path`, callbacks",  # what may change on resume is checked
        "The dirpath has changed from",  # resume=X.ckpt starts a folder and a best score of its own
    ):
        warnings.filterwarnings("ignore", message)
    for stream in (sys.stdout, sys.stderr):
        set_errors: Any = getattr(stream, "reconfigure", lambda **_: None)
        set_errors(errors="replace")  # characters that the terminal lacks become "?"
