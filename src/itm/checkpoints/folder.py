"""What a checkpoint holds beside weights, and the folder format that `load` reads."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from itm.matcher.state import pack_state, saved_arguments, unpack_state
from itm.utils.devices import find_device
from itm.utils.errors import first_line

if TYPE_CHECKING:
    from itm.matcher.matcher import Matcher


def matcher_class(name: str, trusted: str | type[Matcher] | None = None) -> type[Matcher]:
    """The class of a saved matcher: one of `itm.models`, or the class or dotted name to trust.

    A class name from a file is only ever looked up among the library's own, never imported.
    """
    if isinstance(trusted, type):
        return trusted
    if trusted is not None:
        module, _, attribute = trusted.rpartition(".")
        return getattr(importlib.import_module(module), attribute)
    import itm.models

    if name not in itm.models.__all__:
        raise ValueError(
            f"{name!r} is no model of this library ({', '.join(itm.models.__all__)}); for a class "
            "of your own pass model_class='your.module.YourMatcher'"
        )
    return getattr(itm.models, name)


def save(matcher: Matcher, folder: str | Path, card: str = "") -> Path:
    """Write model.safetensors, config.json, vocab.json and README.md; no optimiser, no loss.

    Args:
        matcher: any matcher.
        folder: made when missing.
        card: text for README.md.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        k: v.detach().cpu().contiguous().clone()
        for k, v in matcher.state_dict().items()
        if not k.startswith("loss.")
    }
    save_file(tensors, folder / "model.safetensors")
    state = pack_state(matcher)
    config = {**state, "arguments": saved_arguments(matcher)}
    vocab = config.pop("vocab", None)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    if vocab is not None:
        (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    default = f"# {state['class']}\n\n```python\nimport itm\nmatcher = itm.load('.')\n```\n"
    (folder / "README.md").write_text(card or default, encoding="utf-8")
    return folder


def load(
    path: str | Path,
    loss: Any = None,
    model_class: str | type[Matcher] | None = None,
    device: str = "cpu",
) -> Matcher:
    """A matcher in eval mode with its vocabulary, from a folder, a checkpoint or a run folder.

    Args:
        path: folder written by `save`, a `.ckpt` file, or a run folder with checkpoints/best.ckpt.
        loss: a loss object, for further training.
        model_class: your own class or its dotted name, when the file's is not one of `itm.models`.
        device: where to put it; "auto" is the GPU where there is one.

    Raises:
        FileNotFoundError: nothing to load there; the message lists what was looked for.
        ValueError: weights and configuration do not fit, or a file that cannot be read safely.
    """
    path = Path(path)
    config, tensors = _read(path)
    try:
        arguments = _without_files(config["arguments"])
        matcher = matcher_class(config["class"], model_class)(**arguments, loss=loss)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the arguments of a matcher ({error!r})") from error
    own = {k: v for k, v in matcher.state_dict().items() if not k.startswith("loss.")}
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    if missing or unexpected or shapes:
        raise ValueError(
            f"{path}: the weights do not fit {config['class']}: missing {missing[:5]}, unexpected "
            f"{unexpected[:5]}, other shapes {shapes[:5]}"
        )
    matcher.load_state_dict(tensors, strict=loss is None)
    try:
        unpack_state(matcher, config)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged word lists ({error!r})") from error
    matcher.record = read_record(path)
    return matcher.to(find_device(device)).eval()


def read_record(path: Path) -> dict[str, Any]:
    """The results.json of the run or the saved folder that a matcher comes from, or {}."""
    file = (path.parent.parent if path.name == "best.ckpt" else path) / "results.json"
    try:
        return _read_json(file) if file.is_file() else {}
    except ValueError:  # a broken record is no reason to refuse the weights
        return {}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Configuration and weights of a folder or a checkpoint; nothing is unpickled but tensors."""
    if (path / "config.json").is_file() and (path / "model.safetensors").is_file():
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        config = _read_json(path / "config.json")
        if (path / "vocab.json").is_file():
            config["vocab"] = _read_json(path / "vocab.json")
        try:
            return config, load_file(path / "model.safetensors")
        except SafetensorError as error:
            raise ValueError(
                f"{path / 'model.safetensors'} is damaged or no safetensors file ({error})"
            ) from error
    candidates = (
        [path]
        if path.suffix == ".ckpt"
        else [path / "checkpoints" / "best.ckpt", path / "best.ckpt"]
    )
    found = next((file for file in candidates if file.is_file()), None)
    if found is None and path.is_file():
        raise ValueError(
            f"{path} is no .ckpt; give a run folder, a saved folder or a .ckpt (weights of an "
            "original code base: `python -m itm.convert published=FILE vocab=... out=FOLDER`)"
        )
    if found is None:
        looked = [path / "config.json", path / "model.safetensors", *candidates]
        raise FileNotFoundError(
            f"nothing to load at {path}; looked for {', '.join(map(str, looked))}; a matcher on "
            "the Hugging Face hub is read by Matcher.from_pretrained('user/name')"
        )
    try:
        data = torch.load(found, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise ValueError(
            f"{found} could not be read safely: it is damaged, or holds more than tensors and "
            f"plain data ({first_line(error)})"
        ) from error
    if not isinstance(data, dict) or "itm" not in data:
        raise ValueError(
            f"{found} was not written by itm; for weights of the original code bases use "
            "itm.from_published(path, vocab=...) or `python -m itm.convert`"
        )
    tensors = {k: v for k, v in data["state_dict"].items() if not k.startswith("loss.")}
    return {**data["itm"], "arguments": data["hyper_parameters"]}, tensors


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, expected a JSON object")
    return data


def _without_files(arguments: dict[str, Any]) -> dict[str, Any]:
    """Leave out the files that a matcher was once built from: the weights hold what was in them.

    A saved BERT is rebuilt from its stored configuration.
    """
    arguments = {k: v for k, v in arguments.items() if k != "concept_vectors"}
    text = arguments.get("text")
    if isinstance(text, dict) and text.get("config"):
        arguments["text"] = {k: v for k, v in text.items() if k != "path"}
    return arguments
