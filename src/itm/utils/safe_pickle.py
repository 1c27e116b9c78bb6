"""Read pickles of numpy arrays and plain containers without running anything in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any


class _ArraysOnly(pickle.Unpickler):
    """Unpickle numpy arrays and plain containers, and refuse anything else."""

    ALLOWED = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
        *((f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed here")
        return super().find_class(module, name)


def read_arrays(path: Path) -> Any:
    """Read a pickle of numpy arrays and plain containers.

    Raises:
        ValueError: the file is damaged or holds anything else.
    """
    try:
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise ValueError(f"{path} could not be read safely: {error}") from error
