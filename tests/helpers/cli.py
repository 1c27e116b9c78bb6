"""Run a command of the library in a process of its own, as a user does."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def run(module, *arguments, cwd, fails=False, timeout=600, **environment):
    """Standard output and error of `python -W error -m itm.MODULE ARGUMENTS`."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-W", "error", "-m", f"itm.{module}", *arguments]
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout
    )
    text = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, text
    return text
