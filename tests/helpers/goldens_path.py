"""Where the numeric fixtures are: a small set in the repository, all of them in a shared folder."""

import os
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parents[1]
SHARED = Path(os.environ.get("ITM_SHARED", HERE.parents[1] / "shared"))


def case(name: str) -> Path:
    """The folder of a fixture such as "scan/t2i_lse"; skips the test where it is not at hand."""
    for folder in (HERE / "goldens" / name, SHARED / "goldens" / name):
        if folder.is_dir():
            return folder
    pytest.skip(f"fixture {name} is neither in tests/goldens nor in {SHARED}/goldens")


def shared(name: str) -> Path:
    """A path in the shared folder such as "data/flickr8k"; skips the test where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not at hand (set ITM_SHARED)")
    return path


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file; numpy itself would leave the file open."""
    with np.load(path) as file:
        return dict(file)
