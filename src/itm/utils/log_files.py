"""Write to the log files of a run, but not to the terminal."""

from __future__ import annotations

import logging

LOG = logging.getLogger("itm")


def log(text: str) -> None:
    """Append a text to the files that the root logger writes (train.log)."""
    record = LOG.makeRecord(LOG.name, logging.INFO, __file__, 0, text, (), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):  # not the terminal, which has the text already
            handler.handle(record)
