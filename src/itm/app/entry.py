"""Run a command: readable errors in place of tracebacks, and no notices that nobody can act on."""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from itm.app.arguments import read_arguments

EXPECTED = (ValueError, OSError, HydraException, OmegaConfBaseException)


def run(main: Callable[[], Any], prepare: Callable[[list[str]], list[str]] | None = None) -> None:
    """Call a Hydra main; an expected error ends with one clear line instead of a traceback.

    Args:
        main: of the command.
        prepare: changes the command line further, before Hydra reads it and writes anything.

    Expected are `ValueError`, `OSError` (a missing file, a full disk) and the errors that Hydra
    raises about the configuration.
    """
    quiet()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints and exits by itself
    try:
        sys.argv[1:] = read_arguments(sys.argv[1:])
        if prepare is not None:
            sys.argv[1:] = read_arguments(prepare(sys.argv[1:]))
        main()
    except Exception as error:
        from itm.app.wrong_options import diagnose  # late: what it imports takes a moment

        wrong = None if os.environ.get("ITM_TRACEBACK") else diagnose(error, main, sys.argv[1:])
        fail(error if wrong is None else ValueError(wrong))


def fail(error: Exception) -> NoReturn:
    """End the process: print one line for an expected error, the traceback for any other."""
    tell(error)
    raise SystemExit(1)


def tell(error: Exception) -> str:
    """Print an error as `fail` does.

    Returns:
        The error in one line.
    """
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, EXPECTED):
        error = error.__cause__  # without "Error in call to target", the class says enough
    if not isinstance(error, EXPECTED) or os.environ.get("ITM_TRACEBACK"):
        traceback.print_exception(error)
        return f"{type(error).__name__}: {error}".splitlines()[0]
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    text = str(error) if str(cause) in str(error) else f"{error}: {cause}"
    print(f"error: {text}\n(set ITM_TRACEBACK=1 for the traceback)", file=sys.stderr)
    return " ".join(text.split())


def fail_alone(error: Exception) -> None:
    """End this process if it is one of several; return if it is the only one.

    The others wait in the job that failed, so that this one must not go on with the next job of a
    sweep.
    """
    from itm.utils.distributed import rank_and_size  # late, since it brings torch

    rank, processes = rank_and_size()
    if processes > 1:
        hint = "if it lost its connection or timed out, another one failed first"
        print(f"process {rank} of {processes} ends; {hint}", file=sys.stderr)
        fail(error)


def quiet() -> None:
    """Silence notices of other packages that a user can do nothing about."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    for message in (
        ".*isinstance.treespec, LeafSpec.*",  # Lightning on recent torch
        ".*does not have many workers.*",  # data.workers is the user's choice
        ".*lr_scheduler.step.*before.*optimizer.step.*",  # skipped steps of fp16 scaling
        "Checkpoint directory .* exists and is not empty",  # resumed runs write where they were
        "It is recommended to use .*sync_dist=True",  # metrics are of the whole split already
        "Found .* in eval mode at the start of training",  # a frozen transformer is meant to be
        "The dirpath has changed from",  # resume=X.ckpt starts a folder and a best score of its own
    ):
        warnings.filterwarnings("ignore", message)
    for stream in (sys.stdout, sys.stderr):
        set_errors: Any = getattr(stream, "reconfigure", lambda **_: None)
        set_errors(errors="replace")  # characters that the terminal lacks become "?"
