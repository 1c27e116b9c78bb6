"""`python -m itm`, or `itm`: list the commands, or run one of them (`itm train model=vsrn`)."""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from itm import __version__
from itm.utils.closed_output import quiet_if_closed

COMMANDS = (
    "train", "evaluate", "search", "explain", "localise", "report", "prepare", "extract", "convert",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `itm COMMAND OPTIONS`.

    Args:
        arguments: arguments after `itm`; None = the command line.

    Raises:
        SystemExit: an unknown command.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given[0].removeprefix("itm.") if given else "--help"
    if name == "--version":
        print(f"itm {__version__}")
    elif name in ("-h", "--help", "help"):
        print(overview())
    elif name in COMMANDS:
        sys.argv[1:] = given[1:]
        # As __main__, so that processes started by Lightning run the command, too.
        runpy.run_module(f"itm.{name}", run_name="__main__", alter_sys=True)
    else:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        print(
            f"error: there is no command {name}; {hint}choose from {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        raise SystemExit(2)


def overview() -> str:
    """List the commands, each with the first line of its module."""
    lines = [f"itm {__version__}", "", "itm COMMAND OPTION=VALUE ...    (or python -m itm.COMMAND)"]
    for name in COMMANDS:
        source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        about = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
        lines.append(f"  {name:<10} {about.partition(': ')[2]}")
    return "\n".join([*lines, "", "itm COMMAND --help lists the options of a command."])


if __name__ == "__main__":
    with quiet_if_closed():
        main()
