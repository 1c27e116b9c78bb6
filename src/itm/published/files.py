"""Read and write files of the original code bases: state dicts and options."""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itm.published.tensorflow import read_variables
from itm.utils.archive import read_npz
from itm.utils.contents import TORCH, describe_file
from itm.utils.files import replacing
from itm.utils.pickle_values import Instance
from itm.utils.torch_files import read_torch

PARALLEL = "module."  # DataParallel puts it before every name
OPT = "opt/"  # prefix of the names of options in an .npz file


def read_checkpoint(path: str | Path) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
    """Read state dicts and options of an original checkpoint.

    Args:
        path: a torch file, zip or legacy format, of tensors, plain data, numpy numbers and an
            `argparse.Namespace`; an .npz file of named arrays; or the prefix of a TensorFlow
            checkpoint.

    Returns:
        The state dicts, without the prefix of DataParallel, and the options by name.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, is not a checkpoint, is only a part of one, or holds
            instances of other classes.
    """
    path = Path(path).expanduser()
    if Path(f"{path}.index").is_file():
        return [read_variables(path)], {}
    prefix = re.sub(r"\.(index|data-\d+-of-\d+)$", "", str(path))
    if prefix != str(path):
        raise ValueError(
            f"{path} is one file of a TensorFlow checkpoint: give its prefix, {prefix}"
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the checkpoint file in it")
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".npz":
        return _read_npz(path)
    if kind := describe_file(path, TORCH):
        raise ValueError(f"{path} is not a checkpoint but {kind}")
    # Python 2 wrote strings and numbers as bytes.
    data = read_torch(path, classes=("Namespace",), encoding="latin1")
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, expected the dict of a checkpoint")
    opt: Any = data.get("opt") or {}
    options = opt.fields if isinstance(opt, Instance) else opt
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise ValueError(f"{path}: 'opt' holds a {type(opt).__name__}, expected options by name")
    model: Any = data.get("model", data.get("state_dict", data))
    states = list(model) if isinstance(model, (list, tuple)) else [model]
    for state in states:
        if not isinstance(state, dict):
            raise ValueError(
                f"{path}: 'model' holds a {type(state).__name__}, expected state dicts"
            )
        for name, value in state.items():
            if not isinstance(name, str):
                raise ValueError(f"{path}: 'model' has the key {name!r}, expected names of tensors")
            if not isinstance(value, Tensor):
                raise ValueError(f"{path}: {name} is a {type(value).__name__}, expected a tensor")
            if name.startswith(PARALLEL) and name.removeprefix(PARALLEL) in state:
                raise ValueError(f"{path} holds {name} with and without {PARALLEL!r}")
    if not any(states):
        raise ValueError(f"{path} holds no tensors")
    return [{k.removeprefix(PARALLEL): v for k, v in state.items()} for state in states], options


def _read_npz(path: Path) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
    found = read_npz(path)
    try:
        options = {k.removeprefix(OPT): v.item() for k, v in found.items() if k.startswith(OPT)}
        tensors = {k: torch.from_numpy(v) for k, v in found.items() if not k.startswith(OPT)}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: variables must be arrays of numbers ({error})") from error
    return [tensors], options


def write_checkpoint(
    path: str | Path, states: list[dict[str, Tensor]], options: dict[str, Any]
) -> None:
    """Write what `read_checkpoint` reads, in torch's legacy format, which old versions read too.

    Args:
        path: the file; if it ends in .npz, arrays are written instead.
        states: one state dict per module of the original.
        options: by name.

    Raises:
        OSError: the file cannot be written; an earlier one is unchanged.
        ValueError: several state dicts, or options other than numbers and strings, for an .npz
            file.
    """
    path = Path(path).expanduser()
    if path.suffix == ".npz":
        if len(states) != 1:
            raise ValueError(
                f"{path}: .npz is for the variables of the two-branch networks; these weights are "
                f"{len(states)} state dicts, write them to a .pth.tar"
            )
        arrays: dict[str, Any] = {name: value.numpy() for name, value in states[0].items()}
        for name, x in options.items():
            if not isinstance(x, (str, int, float)):
                raise ValueError(
                    f"{path}: option {name}={x!r} must be a number, a string or a bool"
                )
        arrays |= {OPT + name: np.array(x) for name, x in options.items()}
        with replacing(path) as file:
            np.savez(file, **arrays)
        return
    opt = argparse.Namespace(**options)
    data = {"epoch": 0, "model": states, "best_rsum": 0.0, "opt": opt, "Eiters": 0}
    if len(states) == 1:  # names in the PyTorch port of the two-branch networks
        data |= {"state_dict": states[0], "best_acc": 0.0}
    with replacing(path) as file:
        torch.save(data, file, _use_new_zipfile_serialization=False)
