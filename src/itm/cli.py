"""What all commands share before Hydra starts: free text, resumed runs, readable errors."""

import json
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

EXPECTED = (ValueError, OSError, HydraException, OmegaConfBaseException)


def run(main: Callable[[], Any]) -> None:
    """Call a Hydra main; expected mistakes end with one clear line instead of a traceback.

    These are a `ValueError` and an `OSError` (a file that is missing, a full disk), and what Hydra
    finds wrong with the configuration.
    """
    quiet()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints and exits by itself
    try:
        main()
    except Exception as error:
        from itm.overrides import diagnose  # late: what it imports takes a moment

        wrong = None if os.environ.get("ITM_TRACEBACK") else diagnose(error, main, sys.argv[1:])
        fail(error if wrong is None else ValueError(wrong))


def fail(error: Exception) -> NoReturn:
    """End the process, with one line for an expected error, with the traceback of any other."""
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, EXPECTED):
        error = error.__cause__  # without "Error in call to target", the class says enough
    if isinstance(error, EXPECTED) and not os.environ.get("ITM_TRACEBACK"):
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        text = str(error) if str(cause) in str(error) else f"{error}: {cause}"
        print(f"error: {text}\n(set ITM_TRACEBACK=1 for the traceback)", file=sys.stderr)
    else:
        traceback.print_exception(error)
    raise SystemExit(1)


def quiet() -> None:
    """Leave out notices of the packages below that a user can do nothing about."""
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


def quote_free_text(arguments: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Quote the values of some keys, so that Hydra's grammar leaves their characters alone.

    >>> quote_free_text(["query=a dog, two cats", "k=3"], ["query"])
    ["query='a dog, two cats'", 'k=3']
    """
    return [_quoted(argument, keys) for argument in arguments]


def _quoted(argument: str, keys: Sequence[str]) -> str:
    key, equals, value = argument.partition("=")
    if not equals or key not in keys:
        return argument
    # A backslash keeps OmegaConf from reading ${ as the beginning of a reference.
    value = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", value)
    # Inside single quotes Hydra's grammar knows two escapes, for the quote and for backslashes
    # that stand before it or at the end.
    out, slashes = [], 0
    for character in value:
        if character == "'":
            out.append("\\" * slashes + "\\'")
            slashes = 0
        else:
            slashes = slashes + 1 if character == "\\" else 0
            out.append(character)
    quoted = "".join(out) + "\\" * slashes
    return f"{key}='{quoted}'"


def resume_arguments(arguments: Sequence[str]) -> list[str]:
    """With `resume=RUN_FOLDER`, continue in that folder with its own overrides under the new ones.

    Only the user's own run folders are read this way; weights from elsewhere are loaded by
    `init=`, which never reads a configuration.
    """
    arguments = list(arguments)
    at = next((i for i, a in enumerate(arguments) if a.startswith("resume=")), None)
    folder = "" if at is None else arguments[at].partition("=")[2]
    record = Path(folder) / "run.json"
    if not folder or not record.is_file():
        return arguments
    keys = {a.partition("=")[0] for a in arguments} | {"sweep"}  # one job of a sweep, not all
    before = json.loads(record.read_text(encoding="utf-8"))["overrides"]
    kept = [b for b in before if b.partition("=")[0] not in keys]
    arguments[at:at] = [*kept, f"hydra.run.dir={folder}"]  # together: options may stand around them
    return arguments
