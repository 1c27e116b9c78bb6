"""Read and write the files of a matcher: a saved folder, a checkpoint, the record of a run.

A saved folder has model.safetensors (weights), config.json (class, constructor arguments, concepts,
labels, and the checksums of all files), vocab.json, README.md and, if the matcher's run is known,
results.json. Files from elsewhere can bring tensors and plain data only.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from itm.matcher.protocol import MatcherLike
from itm.matcher.state import ORIGINS, pack_origins, pack_state, saved_arguments
from itm.matcher.waiting import odd_arguments
from itm.utils.errors import TakenError
from itm.utils.files import unfinished_beside, write_json, write_text
from itm.utils.folders import read_whole, replacing_folder
from itm.utils.manifest import check_checksums, read_manifest, unsealed, write_manifest
from itm.utils.readers import read_json, reader, reading
from itm.utils.torch_files import read_torch

WEIGHTS, CONFIG, VOCAB, RECORD = "model.safetensors", "config.json", "vocab.json", "results.json"
CHECKED = (WEIGHTS, VOCAB, RECORD)  # with checksums in config.json
NAMES = (CONFIG, *CHECKED, "README.md")


def save(
    matcher: MatcherLike,
    folder: str | Path,
    card: str = "",
    record: dict[str, Any] | None = None,
    overwrite: bool = True,
) -> Path:
    """Write model.safetensors, config.json, vocab.json and README.md, without optimiser and loss.

    A matcher that was saved in the folder before is replaced as a whole. If writing fails, it
    stays.

    Args:
        matcher: any matcher.
        folder: created if missing.
        card: text of README.md.
        record: record of the matcher's run, for results.json; without it, this file is not written.
        overwrite: replace a saved matcher.

    Returns:
        The folder.

    Raises:
        TakenError: the folder holds files with these names that are not of a saved matcher,
            or, without `overwrite`, a saved matcher.
        OSError: the folder cannot be written.
    """
    folder = Path(folder).expanduser()
    if not overwrite and is_saved(folder / CONFIG):
        raise TakenError(
            f"{folder} holds a saved matcher: replace it with overwrite=true, or choose another "
            "folder"
        )
    with replacing_folder(folder, CONFIG, NAMES, is_saved) as place:
        write(matcher, place, card, record)
    return folder


def is_saved(config: Path) -> bool:
    """Tell whether a config.json belongs to a saved matcher."""
    try:
        return {"class", "arguments"} <= read_json(config).keys()
    except (OSError, ValueError):
        return False


def write(
    matcher: MatcherLike, folder: Path, card: str = "", record: dict[str, Any] | None = None
) -> None:
    """Write the files of `save` into a folder that has no others.

    Raises:
        ValueError: an argument of the constructor is not plain data.
        OSError: the folder cannot be written.
    """
    from safetensors import SafetensorError  # late: only saving and loading need it
    from safetensors.torch import save_file

    arguments = saved_arguments(matcher)
    if odd := odd_arguments(arguments):
        raise ValueError(
            f"{type(matcher).__name__} cannot be saved with {odd[0]}={arguments[odd[0]]!r}:"
            " arguments must be plain data (numbers, texts, lists, dicts), from which the "
            "constructor makes its objects"
        )
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in _without_loss(matcher.state_dict()):
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if place in storages else tensor  # the format shares none
        storages.add(place)
    with unfinished_beside(folder / WEIGHTS) as unfinished:
        try:
            save_file(tensors, unfinished)
        except SafetensorError as error:
            raise OSError(f"cannot write {folder / WEIGHTS} ({error})") from error
    state = pack_state(matcher)
    config = {**state, **pack_origins(matcher), "arguments": arguments}
    default = f"# {state['class']}\n\n```python\nimport itm\nmatcher = itm.load('.')\n```\n"
    write_text(folder / "README.md", card or default)
    if "vocab" in config:
        write_json(folder / VOCAB, config.pop("vocab"))
    if record:
        write_json(folder / RECORD, record, indent=1)
    write_manifest(folder / CONFIG, config, CHECKED)


Saved = tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]


@reader()
def read(path: str | Path) -> Saved:
    """Read configuration, weights and record from a saved folder, a run folder or a checkpoint.

    Args:
        path: folder written by `save`, a `.ckpt` file, or a run folder with checkpoints/best.ckpt.

    Returns:
        The content of config.json and "vocab"; the tensors without those of the loss; the content
        of results.json, {} without one. A damaged results.json is left out with a warning, because
        the weights are useful without it.

    Raises:
        FileNotFoundError: there is nothing to load; the message lists the expected files.
        ValueError: a file is damaged or holds more than tensors and plain data.
    """
    if "://" in str(path):
        raise FileNotFoundError(
            f"{path} is an address, not a file or folder: download it, and give its path; use "
            "Matcher.from_pretrained('user/name') for a matcher on the Hugging Face hub"
        )
    path = Path(path).expanduser()
    found = find_weights(path)
    if found == path / WEIGHTS:
        return read_whole(path / CONFIG, partial(_read_folder, path))
    if found is not None:
        run = path
        if path.name == "best.ckpt":  # as for its folder, see `_checkpoints`
            folder = path.absolute().parent
            run = folder.parent if folder.name == "checkpoints" else folder
        return *_read_checkpoint(found), _read_record(run / RECORD)
    if path.is_file():
        raise ValueError(
            f"{path} must be a run folder, a saved folder or a .ckpt file (for weights of an "
            "original code base: `python -m itm.convert published=FILE vocab=... out=FOLDER`)"
        )
    looked = [path / CONFIG, path / WEIGHTS, *_checkpoints(path)]
    raise FileNotFoundError(
        f"nothing to load at {path}; looked for {', '.join(map(str, looked))}; use "
        "Matcher.from_pretrained('user/name') for a matcher on the Hugging Face hub"
    )


def find_weights(path: Path) -> Path | None:
    """Find the file of weights that `read` takes from a folder or checkpoint; None without one."""
    if (path / CONFIG).is_file() and (path / WEIGHTS).is_file():
        return path / WEIGHTS
    return next((file for file in _checkpoints(path) if file.is_file()), None)


def _checkpoints(path: Path) -> list[Path]:
    """List the checkpoints that a path may stand for, the preferred one first."""
    if path.suffix == ".ckpt":
        return [path]
    return [path / "checkpoints" / "best.ckpt", path / "best.ckpt"]


def _read_folder(path: Path) -> Saved:
    from safetensors.torch import load_file  # late: only saving and loading need it

    config, files = read_manifest(path / CONFIG)
    files = files or {}
    with reading(path / WEIGHTS, "is damaged or not a safetensors file"):
        tensors = load_file(path / WEIGHTS)
    if (path / VOCAB).is_file():
        config["vocab"] = read_json(path / VOCAB)
    check_checksums(path, {k: v for k, v in files.items() if k != RECORD})
    record = _read_record(path / RECORD, {k: v for k, v in files.items() if k == RECORD})
    return config, tensors, record


def _read_record(path: Path, files: dict[str, str] | None = None) -> dict[str, Any]:
    try:
        check_checksums(path.parent, files)
        return unsealed(path, read_json(path)) if path.is_file() else {}
    except (OSError, ValueError) as error:
        warnings.warn(f"the matcher is loaded without its results: {error}", stacklevel=2)
        return {}


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    data = read_torch(path)
    if not isinstance(data, dict) or not {"itm", "hyper_parameters", "state_dict"} <= data.keys():
        raise ValueError(
            f"{path} was not written by itm; for weights of an original code base use "
            "itm.from_published(path, vocab=...) or `python -m itm.convert`"
        )
    if not all(isinstance(data[key], dict) for key in ("itm", "hyper_parameters", "state_dict")):
        raise ValueError(f"{path} is damaged: its arguments or weights are not given by name")
    origins = {ORIGINS: data[ORIGINS]} if ORIGINS in data else {}
    config = {**data["itm"], **origins, "arguments": data["hyper_parameters"]}
    return config, dict(_without_loss(data["state_dict"]))


def _without_loss(tensors: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    return [(k, v) for k, v in tensors.items() if not k.startswith("loss.")]
