"""Files of the original code bases: state dicts and options, read safely and written."""

import argparse
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itm.published.tensorflow import read_variables
from itm.utils.errors import first_line

# What a torch file may hold beside tensors and plain containers: options, and best results that
# were kept as numpy scalars (under the module's old and new name).
_SCALAR = np.float64(0).__reduce__()[0]
SAFE: list[Any] = [
    argparse.Namespace,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
]
OPT = "opt/"  # begins the names of options in an .npz file


def read_checkpoint(path: str | Path) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
    """State dicts and options of an original checkpoint.

    A torch file, zip or legacy format (only tensors, plain containers, numpy scalars and
    `argparse.Namespace` are unpickled), an .npz file of named arrays, or the prefix of a TensorFlow
    checkpoint.

    Raises:
        FileNotFoundError: no such file.
        ValueError: foreign classes in the pickle, no checkpoint, or one part of one.
    """
    path = Path(path)
    if Path(f"{path}.index").is_file():
        return [read_variables(path)], {}
    prefix = re.sub(r"\.(index|data-\d+-of-\d+)$", "", str(path))
    if prefix != str(path):
        raise ValueError(f"{path} is one of a TensorFlow checkpoint's files: give {prefix}")
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".npz":
        return _read_npz(path)
    known = torch.serialization.get_safe_globals()  # what the caller allows stays allowed
    allowed = [x for x in SAFE if x not in known]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Python 2 wrote strings and numbers as bytes.
            data = torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise ValueError(
            f"{path} could not be read safely: only tensors, plain containers and "
            f"argparse.Namespace are accepted ({first_line(error)})"
        ) from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, not the dict of a checkpoint")
    opt: Any = data.get("opt") or {}
    if not isinstance(opt, (argparse.Namespace, dict)):
        raise ValueError(f"{path}: 'opt' holds a {type(opt).__name__}, not options by name")
    options: dict[str, Any] = vars(opt) if isinstance(opt, argparse.Namespace) else opt
    model: Any = data.get("model", data.get("state_dict", data))
    states = list(model) if isinstance(model, (list, tuple)) else [model]
    for state in states:
        if not isinstance(state, dict):
            raise ValueError(f"{path}: 'model' holds a {type(state).__name__}, not state dicts")
        for name, value in state.items():
            if not isinstance(value, Tensor):
                raise ValueError(f"{path}: {name} is a {type(value).__name__}, not a tensor")
    # DataParallel prefixes every name with "module."
    return [{k.removeprefix("module."): v for k, v in state.items()} for state in states], options


def _read_npz(path: Path) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        options = {k.removeprefix(OPT): v.item() for k, v in found.items() if k.startswith(OPT)}
        tensors = {k: torch.from_numpy(v) for k, v in found.items() if not k.startswith(OPT)}
    except Exception as error:  # a damaged archive can raise anything
        raise ValueError(
            f"{path} could not be read safely: an .npz file of plain arrays is expected "
            f"({first_line(error)})"
        ) from error
    return [tensors], options


def write_checkpoint(
    path: str | Path, states: list[dict[str, Tensor]], options: dict[str, Any]
) -> None:
    """Write what `read_checkpoint` reads, in the legacy torch format that old versions read too.

    Raises:
        ValueError: several state dicts for an .npz file, which holds one.
    """
    path = Path(path)
    if path.suffix == ".npz":
        if len(states) != 1:
            raise ValueError(
                f"{path}: .npz is for the variables of the two-branch networks; these weights are "
                f"{len(states)} state dicts, write them to a .pth.tar"
            )
        arrays: dict[str, Any] = {name: value.numpy() for name, value in states[0].items()}
        for name, x in options.items():
            if not isinstance(x, (str, int, float)):
                raise ValueError(f"{path}: option {name}={x!r} must be a number, a word or a bool")
        arrays |= {OPT + name: np.array(x) for name, x in options.items()}
        np.savez(path, **arrays)
        return
    opt = argparse.Namespace(**options)
    data = {"epoch": 0, "model": states, "best_rsum": 0.0, "opt": opt, "Eiters": 0}
    if len(states) == 1:  # the names of the two-branch networks' PyTorch port
        data |= {"state_dict": states[0], "best_acc": 0.0}
    torch.save(data, path, _use_new_zipfile_serialization=False)
