"""Find options of commands other than `itm.train` that are given in vain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from itm.app.arguments import key_of
from itm.app.config import CONF
from itm.app.quoting import as_typed

SPLIT = ("root", "split", "test", "captions_per_image", "protocol", "limit")
READ = {
    "evaluate": (*SPLIT, "train", "val", "phrases.path"),
    "explain": SPLIT,
    "localise": (*SPLIT, "phrases.path"),
    "prepare": (
        "root", "train", "val", "test", "captions_per_image", "min_count", "tokenizer",
        "num_concepts", "num_labels",
    ),
    "search": SPLIT,
}  # fmt: skip


def is_read(command: str, option: str) -> bool:
    """Tell whether a command reads an option of `data`, such as "phrases.path"."""
    read = READ.get(command)
    return read is None or option in read or option.partition(".")[0] in read


def check_data_options(command: str, arguments: Sequence[str]) -> None:
    """Check that a command reads the options of `data` that it is given.

    All commands share the files of this group, which hold the options of training as well.

    Raises:
        ValueError: an option is for training only.
    """
    read = READ.get(command)
    if read is None:
        return
    known = {*OmegaConf.load(Path(CONF, "data", "base.yaml")), "phrases"}
    for argument in arguments:
        group, _, option = key_of(argument).partition(".")
        name = option.partition(".")[0]  # of data.root.seed, data.phrases.path, ...
        if group == "data" and name in known and not is_read(command, option):
            raise ValueError(
                f"{argument} has no effect: itm.{command} reads data.{', data.'.join(read)}; "
                "the other options of data are for itm.train"
            )


def changed(cfg: DictConfig, command: str, names: Sequence[str]) -> list[str]:
    """List the options of a command that differ from its file in `conf/`, as they are typed."""
    default = OmegaConf.load(Path(CONF, f"{command}.yaml"))
    values = {name: OmegaConf.select(cfg, name) for name in names}
    given = {n: x for n, x in values.items() if x != OmegaConf.select(default, n)}
    return [f"{name}={as_typed(value)}" for name, value in given.items()]
