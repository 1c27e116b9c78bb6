"""Read the command line before Hydra does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser

from itm.app.choices import rewrite_choices
from itm.app.config import CONF
from itm.app.processes import is_first_process
from itm.app.quoting import quote, quote_path, unquote

MULTIRUN = ("-m", "--multirun", "hydra.mode=MULTIRUN")  # Hydra starts several jobs


def read_arguments(arguments: Sequence[str], command: str) -> list[str]:
    """Rewrite arguments so that Hydra reads them as the user meant them.

    Args:
        arguments: as typed.
        command: "train", "evaluate", ...; names its file in `conf/`.

    Raises:
        ValueError: a group that the command needs is null, an option is written with dashes, an
            argument is not an option, or Hydra would not read a file of --config-dir.
    """
    parsed, displaced = get_args_parser().parse_known_args(list(arguments))
    for unknown in displaced:
        if unknown.startswith("-"):
            name = unknown.lstrip("-").partition("=")[0]
            raise ValueError(
                f"there is no option {unknown}; write {name}=VALUE, without dashes (--help lists "
                "the options)"
            )
    for option in (*parsed.overrides, *displaced):
        if "=" not in option and option[:1] != "~":
            raise ValueError(
                f"{option or repr(option)}: write OPTION=VALUE, with quotes around a value that "
                "has spaces (--help lists the options)"
            )
    arguments = _adjacent(arguments, parsed.overrides, displaced)
    _check_own_files(config_dir(arguments))
    sweeps = is_sweep(arguments)
    return rewrite_choices([quote(argument, sweeps) for argument in arguments], command)


def _check_own_files(own: Path | None) -> None:
    """Check that each file of `--config-dir` is read: of two with one name, Hydra reads ours.

    An equal copy is accepted.

    Raises:
        ValueError: a file differs from ours of the same name.
    """
    ours = Path(CONF)
    if own is None or own == ours.resolve():
        return
    for file in sorted(own.rglob("*.yaml")):
        name = file.relative_to(own)
        if (ours / name).is_file() and (ours / name).read_bytes() != file.read_bytes():
            raise ValueError(
                f"--config-dir: {file} would not be read, because itm has a {name} of its own: "
                f"give the file another name, such as {name.with_stem(f'my_{name.stem}')}"
            )


def is_sweep(arguments: Sequence[str]) -> bool:
    """Tell whether a command line asks for several jobs."""
    chosen = value_of(arguments, "sweep")
    return any(a in MULTIRUN for a in arguments) or (chosen or "null").lower() != "null"


def _adjacent(
    arguments: Sequence[str], options: Sequence[str], displaced: Sequence[str]
) -> list[str]:
    """Put together the options that argparse does not accept on both sides of a flag such as -m."""
    rest = list(arguments)
    for option in displaced:
        rest.reverse()
        rest.remove(option)  # the last one
        rest.reverse()
    at = rest.index(options[0]) + len(options) if options else len(rest)
    return [*rest[:at], *displaced, *rest[at:]]


def tell_repeated(arguments: Sequence[str]) -> None:
    """Print which options are given twice with different values: the last one counts."""
    if not is_first_process():
        return
    last: dict[str, str] = {}
    for argument in arguments:
        if "=" not in argument or argument.startswith(("-", "~")):
            continue
        key = key_of(argument)
        merged = argument.partition("=")[2].startswith("{")  # into the earlier one
        if key in last and last[key] != argument and not merged:
            print(f"{key} is given twice: {argument} replaces {last[key]}", file=sys.stderr)
        last[key] = argument


def key_of(argument: str) -> str:
    """Name the option that an argument sets or deletes.

    Examples:
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


def search_path(arguments: Sequence[str]) -> list[str]:
    """Return the option with which `compose` reads the folder of `--config-dir`, if it is given."""
    own = config_dir(arguments)
    return [] if own is None else [f"hydra.searchpath=[{quote_path(f'file://{own}')}]"]
