"""Rewrite the command line before Hydra reads it: quote free text, resume runs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path


def quote_free_text(arguments: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Quote the values of some keys, so that Hydra's grammar leaves their characters alone.

    >>> quote_free_text(["query=a dog, two cats", "k=3"], ["query"])
    ["query='a dog, two cats'", 'k=3']
    """
    return [_quoted(argument, keys) for argument in arguments]


def _quoted(argument: str, keys: Sequence[str]) -> str:
    key, equals, value = argument.partition("=")
    if not equals or key not in keys:
        return argument
    # A backslash keeps OmegaConf from reading ${ as the beginning of a reference.
    value = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", value)
    # Inside single quotes Hydra's grammar has two escapes: one for the quote, one for backslashes
    # before a quote or at the end.
    out, slashes = [], 0
    for character in value:
        if character == "'":
            out.append("\\" * slashes + "\\'")
            slashes = 0
        else:
            slashes = slashes + 1 if character == "\\" else 0
            out.append(character)
    quoted = "".join(out) + "\\" * slashes
    return f"{key}='{quoted}'"


def resume_arguments(arguments: Sequence[str]) -> list[str]:
    """Expand `resume=RUN_FOLDER`: continue in that folder with its overrides; new ones win.

    Use it for your own run folders only. Load weights from elsewhere with `init=`, which never
    reads a configuration.
    """
    arguments = list(arguments)
    at = next((i for i, a in enumerate(arguments) if a.startswith("resume=")), None)
    folder = "" if at is None else arguments[at].partition("=")[2]
    record = Path(folder) / "run.json"
    if not folder or not record.is_file():
        return arguments
    keys = {a.partition("=")[0] for a in arguments} | {"sweep"}  # one job of a sweep, not all
    before = json.loads(record.read_text(encoding="utf-8"))["overrides"]
    kept = [b for b in before if b.partition("=")[0] not in keys]
    arguments[at:at] = [*kept, f"hydra.run.dir={folder}"]  # together: options may stand around them
    return arguments
