"""Commands that read options only start without the packages that take seconds to import."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", ["train", "evaluate", "convert", "prepare", "extract"])
def test_options_are_read_without_torch(command):
    code = (
        f"import itm.{command}, sys; print({{'torch', 'numpy', 'matplotlib'}} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stdout + done.stderr
