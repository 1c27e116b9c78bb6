"""The files that hold a matcher: a saved folder, a checkpoint of a run, the record of a run.

A saved folder has model.safetensors (weights), config.json (class, constructor arguments, concepts
and labels, checksums of the others), vocab.json, README.md and, if the matcher's run is known,
results.json. A file from elsewhere can hold tensors and plain data only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from itm.matcher.protocol import MatcherLike
from itm.matcher.state import pack_state, saved_arguments
from itm.utils.files import check_manifest, manifest, replacing_folder
from itm.utils.torch_files import read_torch

CHECKED = ("model.safetensors", "vocab.json")  # with checksums in config.json
OPTIONAL = ("vocab.json", "results.json")


def save(
    matcher: MatcherLike, folder: str | Path, card: str = "", record: dict[str, Any] | None = None
) -> Path:
    """Write model.safetensors, config.json, vocab.json and README.md; no optimiser, no loss.

    An earlier matcher in the folder is replaced, its vocabulary and results included; if writing
    fails, it stays.

    Args:
        matcher: any matcher.
        folder: made when missing.
        card: text of README.md.
        record: of the matcher's run, for results.json; without one no file is written.

    Returns:
        The folder.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    with replacing_folder(folder, last="config.json", stale=OPTIONAL) as place:
        write(matcher, place, card, record)
    return folder


def write(
    matcher: MatcherLike, folder: Path, card: str = "", record: dict[str, Any] | None = None
) -> None:
    """Write the files of `save` into a folder that holds no others."""
    from safetensors import SafetensorError  # late: only saving and loading need it
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    tensors = {
        k: v.detach().cpu().contiguous().clone() for k, v in _without_loss(matcher.state_dict())
    }
    try:
        save_file(tensors, folder / "model.safetensors")
    except SafetensorError as error:
        raise OSError(f"cannot write {folder / 'model.safetensors'} ({error})") from error
    state = pack_state(matcher)
    config = {**state, "arguments": saved_arguments(matcher)}
    default = f"# {state['class']}\n\n```python\nimport itm\nmatcher = itm.load('.')\n```\n"
    (folder / "README.md").write_text(card or default, encoding="utf-8")
    if "vocab" in config:
        _write_json(folder / "vocab.json", config.pop("vocab"))
    if record:
        _write_json(folder / "results.json", record, indent=1)
    config["files"] = manifest(folder, CHECKED)
    _write_json(folder / "config.json", config, indent=1)


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read configuration and weights from a saved folder, a run folder or a checkpoint.

    Args:
        path: folder written by `save`, a `.ckpt` file, or a run folder with checkpoints/best.ckpt.

    Returns:
        What config.json holds, "vocab" included, and the tensors without those of the loss.

    Raises:
        FileNotFoundError: nothing to load there; the message lists the files that were looked for.
        ValueError: a file that is damaged or holds more than tensors and plain data.
    """
    path = Path(path)
    if (path / "config.json").is_file() and (path / "model.safetensors").is_file():
        return _read_folder(path)
    checkpoint = [path]
    if path.suffix != ".ckpt":
        checkpoint = [path / "checkpoints" / "best.ckpt", path / "best.ckpt"]
    found = next((file for file in checkpoint if file.is_file()), None)
    if found is not None:
        return _read_checkpoint(found)
    if path.is_file():
        raise ValueError(
            f"{path} is no .ckpt; give a run folder, a saved folder or a .ckpt (weights of an "
            "original code base: `python -m itm.convert published=FILE vocab=... out=FOLDER`)"
        )
    looked = [path / "config.json", path / "model.safetensors", *checkpoint]
    raise FileNotFoundError(
        f"nothing to load at {path}; looked for {', '.join(map(str, looked))}; a matcher on "
        "the Hugging Face hub is read by Matcher.from_pretrained('user/name')"
    )


def read_record(path: str | Path) -> dict[str, Any]:
    """Read results.json of the run or saved folder that a matcher comes from; {} without one."""
    path = Path(path)
    file = (path.parent.parent if path.name == "best.ckpt" else path) / "results.json"
    try:
        return _read_json(file) if file.is_file() else {}
    except ValueError:  # the weights are read without their record
        return {}


def _read_folder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError  # late: only saving and loading need it
    from safetensors.torch import load_file

    config = _read_json(path / "config.json")
    if (path / "vocab.json").is_file():
        config["vocab"] = _read_json(path / "vocab.json")
    try:
        tensors = load_file(path / "model.safetensors")
    except SafetensorError as error:
        raise ValueError(
            f"{path / 'model.safetensors'} is damaged or not a safetensors file ({error})"
        ) from error
    check_manifest(path, config.pop("files", None))
    return config, tensors


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    data = read_torch(path)
    if not isinstance(data, dict) or not {"itm", "hyper_parameters", "state_dict"} <= data.keys():
        raise ValueError(
            f"{path} was not written by itm; for weights of the original code bases use "
            "itm.from_published(path, vocab=...) or `python -m itm.convert`"
        )
    if not all(isinstance(data[key], dict) for key in ("itm", "hyper_parameters", "state_dict")):
        raise ValueError(f"{path} is damaged: its arguments or weights are not given by name")
    config = {**data["itm"], "arguments": data["hyper_parameters"]}
    return config, dict(_without_loss(data["state_dict"]))


def _without_loss(tensors: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    return [(k, v) for k, v in tensors.items() if not k.startswith("loss.")]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, expected a JSON object")
    return data


def _write_json(path: Path, content: Any, indent: int | None = None) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=indent), encoding="utf-8")
