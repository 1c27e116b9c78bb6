"""End a command at a signal with one line and the signal's own exit status."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from itm.utils.log_files import log

# Ctrl-C, a scheduler's end of job, a closed terminal.
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(SystemExit):
    """The command ended at a signal; the exit code is 128 + signal."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = number


_before: dict[int, Any] = {}  # the handlers that `stopped_by_signals` replaced
_owner = 0  # the process that did; processes that read data inherit its handlers


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Turn signals into `Stopped`, so that files being written are removed as after an error.

    A second signal ends the process at once. Signals that are ignored, as by nohup, stay so.
    """
    global _owner
    if threading.current_thread() is not threading.main_thread() or _before:
        yield
        return
    _owner = os.getpid()
    for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
        if signal.getsignal(number) != signal.SIG_IGN:
            _before[number] = signal.signal(number, _stop)
    try:
        yield
    except Stopped as error:
        log(f"stopped by {signal.Signals(error.number).name}")  # a handler must not write to files
        raise
    finally:
        _handle(_before)
        _before.clear()


@contextmanager
def usual_signals() -> Iterator[None]:
    """Restore within `stopped_by_signals` what it replaced: training has handlers of its own."""
    replaced = {x: old for x, old in _before.items() if signal.getsignal(x) is _stop}
    _handle(replaced)
    try:
        yield
    finally:
        _handle(dict.fromkeys(replaced, _stop))


def _handle(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _stop(number: int, frame: Any) -> None:
    if os.getpid() != _owner:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    _handle(dict.fromkeys(_before, signal.SIG_DFL))
    os.write(2, f"\nstopped by {signal.Signals(number).name}\n".encode())  # print() may not be used
    raise Stopped(number)
