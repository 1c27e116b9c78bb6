"""Write to the log files of a run, and lines for people to the terminal, too."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOG = logging.getLogger("itm")
_early: list[str] = []  # of `log_later`


def say(text: str) -> None:
    """Print and log a line in the first process only, also before processes know of each other."""
    # Lightning reads the number of the process from the environment. A command that works in one
    # process does not load it.
    lightning = sys.modules.get("lightning_fabric.utilities.rank_zero")
    if lightning is None or getattr(lightning.rank_zero_only, "rank", 0) == 0:
        print(text, flush=True)
        log(text)


def log_later(text: str) -> None:
    """Keep a text for the log file that is opened next: `log` writes it first."""
    _early.append(text)


@contextmanager
def warnings_logged() -> Iterator[None]:
    """Append the warnings of Python to the log files, too."""
    show: Any = warnings.showwarning

    def show_and_log(message: Warning | str, category: type[Warning], *place: Any) -> None:
        show(message, category, *place)
        log(f"warning: {message}")

    warnings.showwarning = show_and_log  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = show


def log(text: str) -> None:
    """Append a text to the files that the root logger writes (train.log)."""
    # Not to the terminal, which has the text already.
    files = [x for x in logging.getLogger().handlers if isinstance(x, logging.FileHandler)]
    for line in [*_early, text] if files else ():
        record = LOG.makeRecord(LOG.name, logging.INFO, __file__, 0, line, (), None)
        for file in files:
            file.handle(record)
    if files:
        _early.clear()
