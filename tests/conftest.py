import atexit
import os
import shutil
import tempfile

# The cache of the user may hold scenes that an older version of the code wrote. All processes of
# one session share a new one: workers of xdist and commands inherit the environment.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["ITM_CACHE"] = tempfile.mkdtemp(prefix="itm-tests-")
    atexit.register(shutil.rmtree, os.environ["ITM_CACHE"], ignore_errors=True)

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402

torch.set_num_threads(1)
