"""Commands of the library in processes of their own that start in a moment.

A server that has imported the library once forks a process for each run; what runs there is the
entry point of the command line, and it can be killed like any process.
"""

import multiprocessing
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["itm.train", "itm.models.scan", "itm.losses", "itm.relevance",
                                "itm.training.callbacks", "itm.training.resume",
                                "itm.training.csv_logger", "itm.runs.record",
                                "itm.scenes", "transformers"])  # fmt: skip


class Run:
    """`python -m itm.train ARGUMENTS` in folder `cwd`; output goes to `cwd/NAME.txt`."""

    def __init__(self, *arguments, cwd, name="output", before=None):
        self.output = Path(cwd) / f"{name}.txt"
        self.process = CONTEXT.Process(
            target=_train, args=(arguments, str(cwd), str(self.output), before)
        )
        self.process.start()

    @property
    def pid(self):
        return self.process.pid

    @property
    def running(self):
        return self.process.is_alive()

    @property
    def text(self):
        return self.output.read_text() if self.output.exists() else ""

    def wait(self, timeout=300):
        """Exit code; negative: the signal that killed it."""
        self.process.join(timeout)
        ended = not self.running
        with suppress(ProcessLookupError):  # loader workers of a process that was killed
            os.killpg(self.pid, signal.SIGKILL)
        self.process.join()
        assert ended, f"was still running:\n{self.text}"
        return self.process.exitcode

    def kill(self):
        """SIGKILL to the process alone; true unless it had ended by itself."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def done(self, timeout=300):
        """Output of a run that must succeed."""
        code = self.wait(timeout)
        assert code == 0, f"exit code {code}\n{self.text}"
        return self.text


def _train(arguments, cwd, output, before):
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored, if the tests run under nohup
    os.chdir(cwd)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    sys.argv = ["itm-train", *arguments]
    import torch

    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of loader workers, as in any process
    if before is not None:
        before()
    from itm.train import main

    main()
