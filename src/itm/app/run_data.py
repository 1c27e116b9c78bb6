"""Take the data options of a checkpoint's run before Hydra reads the command line.

`itm.evaluate`, `search`, `explain` and `localise` work on the data that the run was tested on,
unless the command line says otherwise. A run may come from anywhere, so its record gives plain
values for a few options (`data`, `data.root`, `data.test`, ...) and never names code to call.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from itm.app.config import CONF
from itm.app.foreign import check_hydra
from itm.app.quoting import TEXT, quote
from itm.runs.escape import printable
from itm.runs.outputs import check_folder
from itm.runs.plain_files import (
    data_name,
    kept_configuration,
    read_record,
    read_yaml,
    run_of,
)
from itm.utils.log_files import say

SCENES = ("images", "regions", "width", "noise", "seed")  # numbers
WRITE_SCENES = "itm.scenes.write_scenes"
NOTES: list[str] = []  # of `use_run_data`, for `tell_run_data`
NAME = re.compile(r"[\w.\-]+", re.ASCII)
QUESTIONS = ("-h", "--help", "-c", "--cfg", "-i", "--info", "--hydra-help", "--version")


def use_run_data(arguments: Sequence[str]) -> list[str]:
    """Add the data options of the run to a command line that names a checkpoint.

    Use last.ckpt of a run folder without best.ckpt. `tell_run_data` prints a line about either.

    Args:
        arguments: as `itm.app.arguments.read_arguments` returns them.

    Raises:
        ValueError: the runs of several checkpoints used different data, or the data is gone.
    """
    given = _parsed(arguments)
    arguments = [_as_typed(a, given) for a in arguments]
    if "checkpoint" not in given or any(a in QUESTIONS for a in arguments):
        return arguments
    value = given["checkpoint"]
    paths = [str(x) for x in (value if isinstance(value, list) else [value]) if x is not None]
    files = [_checkpoint_file(path) for path in paths]
    at = max(i for i, a in enumerate(arguments) if a.lstrip("+").startswith("checkpoint="))
    if files != paths:
        listed = ",".join(quote(f"init={file}").partition("=")[2] for file in files)
        arguments[at] = (
            f"checkpoint=[{listed}]" if isinstance(value, list) else f"checkpoint={listed}"
        )
    found = {path: _options(Path(path), given) for path in files}
    options = [x for x in found.values() if x]
    options = [x for x in options if not any(_is_data_of(x, y) for y in options)]
    for path, own in found.items():
        folder = own.get("data.root") if own in options else None
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(
                f"{path} was tested on data.root={folder}, which is not here: give data.root=DIR"
            )
    if not options:
        return arguments
    if any(x != options[0] for x in options):
        told = "; ".join(f"{path}: {_shown(x)}" for path, x in found.items())
        apart = {k for x in options for k in x if any(y.get(k) != x[k] for y in options)}
        is_other = any(key == "data" or key.startswith("data.root") for key in apart)
        names = ["data", "data.root"] if is_other else sorted(apart)
        raise ValueError(
            f"these checkpoints were tested on different data, {told}: give {'= and '.join(names)}="
        )
    about = "data of the run" if "data" in options[0] else "data folder of the recorded name here"
    NOTES.append(f"{about}: {_shown(options[0])}")
    arguments[at:at] = _typed(options[0])  # adjacent: argparse options may surround them
    return arguments


def tell_run_data() -> None:
    """Print what `use_run_data` chose; commands call this once nothing can be refused any more."""
    for note in NOTES:
        say(printable(note))
    NOTES.clear()


def check_result_folder(
    arguments: Sequence[str], command: str, patterns: Sequence[str], option: str = "hydra.run.dir"
) -> None:
    """Check that a command may write into the folder that its command line names.

    Hydra writes its record into `hydra.run.dir` before the command begins.

    Raises:
        TakenError: as for `itm.runs.outputs.check_folder`, or another program wrote `.hydra` there.
    """
    given = _parsed(arguments)
    out = given.get(option) or given.get("hydra.run.dir")
    if out is not None and "${" not in str(out) and not any(a in QUESTIONS for a in arguments):
        check_folder(str(out), command, patterns, given.get("overwrite") is True)
        if "hydra.run.dir" in given:
            check_hydra(Path(str(given["hydra.run.dir"])))


def _parsed(arguments: Sequence[str]) -> dict[str, Any]:
    """Read the options of a command line; leave those that do not parse to Hydra."""
    parser, given = OverridesParser.create(), {}
    for argument in arguments:
        if "=" in argument and argument[0] not in "-~":
            try:
                option = parser.parse_override(argument)
                given[option.get_key_element().lstrip("+")] = option.value()
            except HydraException:
                continue
    return given


def _as_typed(argument: str, given: dict[str, Any]) -> str:
    """Undo the quoting of free text: the entry point quotes the result of this module again."""
    key = argument.partition("=")[0]
    if key not in TEXT or not isinstance(given.get(key), str):
        return argument
    # `quote` puts 2n + 1 backslashes before a reference that had n.
    back = re.sub(r"(\\+)\$\{", lambda found: found[1][: len(found[1]) // 2] + "${", given[key])
    return f"{key}={back}"


def _checkpoint_file(path: str) -> str:
    """Return last.ckpt of a run folder that has no best.ckpt; any other path as it is."""
    folder = Path(path)
    last = folder / "checkpoints" / "last.ckpt"
    usual = ("config.json", "checkpoints/best.ckpt", "best.ckpt")
    if not last.is_file() or any((folder / name).is_file() for name in usual):
        return path
    NOTES.append(f"{path} has no checkpoints/best.ckpt (no validation yet); using {last}")
    return str(last)


def _typed(options: dict[str, str]) -> list[str]:
    return [quote(f"{key}={value}") for key, value in options.items()]


def _shown(options: dict[str, str]) -> str:
    """Write the options without numbers of the scenes that are the default."""
    usual = {} if options.get("data") != "scenes" else _scenes(_default_root("scenes"))
    return " ".join(_typed({k: v for k, v in options.items() if usual.get(k) != v}))


def _default_root(data: str) -> dict[str, Any]:
    root: dict[str, Any] = read_yaml(Path(CONF, "data", f"{data}.yaml"))["root"]
    return root


def _options(checkpoint: Path, given: dict[str, Any]) -> dict[str, str]:
    """Find the data options of the run of a checkpoint, without those that the user gives."""
    run = run_of(checkpoint)
    bank = str(given.get("rerank_bank"))
    record = _recorded(run, bank) if run is not None else _saved(checkpoint)
    if given.get("data", record.get("data")) != record.get("data"):
        return {}  # other data
    root = any(key == "data.root" or key.startswith("data.root.") for key in given)
    own = {k: v for k, v in record.items() if k not in given}
    own = {k: v for k, v in own.items() if not (root and k.startswith("data.root"))}
    if "data.split" in given:
        own.pop("data.test", None)
    return own


def _saved(folder: Path) -> dict[str, str]:
    """Read the options of a saved folder from its results.json, which has the folder's name only.

    Nothing is known of generated scenes but their name.
    """
    try:
        record = read_record(folder / "results.json")
    except (OSError, ValueError):
        return {}
    root, split, protocol = (record.get(key) for key in ("root", "split", "protocol"))
    if not isinstance(root, str) or not _is_name(split) or data_name(root) != Path(root).name:
        return {}
    options = {"data.root": root, "data.test": str(split)}
    return options | ({"data.protocol": str(protocol)} if _is_name(protocol) else {})


def _is_data_of(saved: dict[str, str], run: dict[str, str]) -> bool:
    """Tell whether the options of a saved folder, which has a name only, mean the data of a run."""
    return (
        "data" in run
        and "data" not in saved
        and Path(run.get("data.root", "")).name == saved["data.root"]
        and saved.get("data.test") == run.get("data.test")
    )


def _recorded(run: Path, bank: str) -> dict[str, str]:
    """Read the data options of a run from its configuration.

    Args:
        run: its folder.
        bank: "train" or "val" if that split is read, too (`rerank_bank=`).
    """
    try:
        kept = kept_configuration(run)
        data, runtime = kept["config"]["data"], kept["runtime"]
        choice, cwd, root = runtime["choices"]["data"], runtime["cwd"], data["root"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    options = {}
    if _is_name(choice) and Path(CONF, "data", f"{choice}.yaml").is_file():
        options["data"] = str(choice)
    if isinstance(root, dict) and root.get("_target_") == WRITE_SCENES:
        options |= _scenes(root)
    elif folder := _folder(root, cwd, run):
        options["data.root"] = folder
    if options.get("data") == "phrases" and (phrases := _phrases(data.get("phrases"), cwd)):
        options["data.phrases.path"] = phrases
    for key in ("test", "protocol", bank):
        if _is_name(data.get(key)):
            options[f"data.{key}"] = data[key]
    for key in ("captions_per_image", "limit"):
        if isinstance(data.get(key), int):
            options[f"data.{key}"] = str(data[key])
    return options


def _scenes(root: dict[str, Any]) -> dict[str, str]:
    """Read the numbers that made the generated corpus."""
    numbers = {}
    for key in sorted(set(SCENES) & root.keys()):
        value = root[key] if isinstance(root[key], list) else [root[key]]
        if all(isinstance(x, int | float) and not isinstance(x, bool) for x in value):
            text = ",".join(map(str, value))
            numbers[f"data.root.{key}"] = f"[{text}]" if isinstance(root[key], list) else text
    return numbers


def _folder(root: Any, cwd: Any, run: Path) -> str | None:
    """Find the data folder; if the configuration has a reference, read it from results.json."""
    if isinstance(root, str) and "${" not in root:
        return _placed(root, cwd)
    try:
        recorded = read_record(run / "results.json").get("root")
    except (OSError, ValueError):
        return None
    return recorded if isinstance(recorded, str) else None


def _phrases(source: Any, cwd: Any) -> str | None:
    """Find the file or folder of the phrases that a run read; None if they lie in its data."""
    path = source.get("path") if isinstance(source, dict) else None
    return _placed(path, cwd) if isinstance(path, str) and "${" not in path else None


def _placed(path: str, cwd: Any) -> str:
    """Find a path of a run from the folder where it was started, else from this one."""
    here = Path(path).expanduser()
    there = Path(str(cwd)) / here
    return str(there if there.exists() or not here.exists() else here)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None
