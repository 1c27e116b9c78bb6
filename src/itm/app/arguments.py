"""Read the command line before Hydra does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser

from itm.app.choices import rewrite_choices
from itm.app.quoting import quote, unquote


def read_arguments(arguments: Sequence[str], command: str) -> list[str]:
    """Rewrite arguments so that Hydra reads them as the user meant them.

    Args:
        arguments: as typed.
        command: "train", "evaluate", ...; names its file in `conf/`.

    Raises:
        ValueError: a group that the command needs is null, or an option is written with dashes.
    """
    for unknown in get_args_parser().parse_known_args(list(arguments))[1]:
        if unknown.startswith("-"):
            name = unknown.lstrip("-").partition("=")[0]
            raise ValueError(
                f"there is no option {unknown}; write {name}=VALUE, without dashes (--help lists "
                "the options)"
            )
    sweeps = any(
        a in ("-m", "--multirun", "hydra.mode=MULTIRUN") or a.startswith("sweep=")
        for a in arguments
    )
    return rewrite_choices([quote(argument, sweeps) for argument in arguments], command)


def key_of(argument: str) -> str:
    """Name the option that an argument sets or deletes.

    >>> key_of("+data.vocab=v.json"), key_of("~scheduler")
    ('data.vocab', 'scheduler')
    """
    return argument.lstrip("+~").partition("=")[0]


def value_of(arguments: Sequence[str], key: str) -> str | None:
    """Find the last value of an option, without quotes; None if it is not given."""
    found = [a.partition("=")[2] for a in arguments if "=" in a and key_of(a) == key]
    return unquote(found[-1]) if found else None


def config_dir(arguments: Sequence[str]) -> Path | None:
    """Find the folder of `--config-dir`."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config-dir", "-cd") and (equals or i + 1 < len(arguments)):
            return Path(value if equals else arguments[i + 1]).resolve()
    return None
