"""Rewrite the command line before Hydra reads it: quote paths and text, replace schedulers."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

# Options that hold text in the user's words: every character counts, quotes too.
TEXT = ("query", "caption", "image")

# Options that hold a path, a list of paths, or a name that may be a path.
PATHS = (
    "checkpoint", "similarity", "relevance", "pmrp", "model_class", "index", "queries", "images",
    "out", "phrases", "vectors", "source", "captions", "splits.train", "splits.dev", "splits.test",
    "backbone", "boxes", "published", "vocab", "bert", "concepts", "captioner", "runs",
    "init", "resume", "word_vectors", "model.text.path", "model.concept_vectors",
    "model.pos_weight", "data.root", "data.vocab", "data.labels", "data.concepts",
    "data.phrases.path", "data.noise_file", "hydra.run.dir", "hydra.sweep.dir",
)  # fmt: skip
LISTS = ("checkpoint", "similarity", "runs")

KEYWORDS = ("null", "true", "false")
PLAIN = re.compile(r"[A-Za-z_/.][\w/.\-+@%]*", re.ASCII)  # Hydra reads these characters as they are
SWEEPS = re.compile(r"(choice|glob|range|interval|tag|shuffle|sort)\(.*\)")


def read_arguments(arguments: Sequence[str]) -> list[str]:
    """Make arguments that Hydra reads as the user meant them, for every command."""
    sweeps = any(
        a in ("-m", "--multirun", "hydra.mode=MULTIRUN") or a.startswith("sweep=")
        for a in arguments
    )
    return replace_nodes([quote(argument, sweeps) for argument in arguments])


def quote(argument: str, sweeps: bool = False) -> str:
    """Quote the value of an option in `TEXT` or `PATHS`, so that Hydra keeps its characters.

    A path may also be null, true or false, contain references such as ${now:%Y}, or be quoted
    already. A leading ~ becomes the home folder.

    Args:
        argument: one argument of the command line.
        sweeps: commas separate the values of a sweep, unless a file of the whole name exists.

    >>> quote("query=a dog, two cats"), quote("data.root=data (1)"), quote("top=3")
    ("query='a dog, two cats'", "data.root='data (1)'", 'top=3')
    """
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    if not equals or (name in TEXT and value in ("''", '""')):
        return argument
    if name in TEXT:
        # A backslash keeps OmegaConf from reading ${ as the beginning of a reference.
        value = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", value)
        return f"{key}={_quoted(value)}"
    if name not in PATHS or SWEEPS.fullmatch(value) or re.fullmatch(r"\{.*:.*\}", value):
        return argument
    if not _exists(value):
        if name in LISTS and value[:1] + value[-1:] == "[]":
            return f"{key}=[{','.join(map(_path, _parts(value[1:-1])))}]"
        if sweeps and "," in value and not name.startswith("hydra."):
            return f"{key}={','.join(map(_path, _parts(value)))}"
    return f"{key}={_path(value)}"


def unquote(value: str) -> str:
    """Undo `quote` for a value; other values stay as they are."""
    if _is_quoted(value):
        mark = value[0]
        return re.sub(rf"(\\+)(?={mark}|$)", lambda f: f[1][: len(f[1]) // 2], value[1:-1])
    return re.sub(r"\\([\\()\[\]{}:=, ])", r"\1", value)


def _path(value: str) -> str:
    if value.startswith("~"):
        value = os.path.expanduser(value)
    if value.lower() in KEYWORDS or _is_plain(value):
        return value
    if not _exists(value) and (_is_quoted(value) or re.search(r"\\[\\()\[\]{}:=, ]", value)):
        return value  # escaped for Hydra by the user
    return _quoted(value)


def _is_plain(value: str) -> bool:
    try:
        float(value)  # a folder 2024 is no number
    except ValueError:
        return PLAIN.fullmatch(value) is not None
    return False


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\""


def _quoted(value: str) -> str:
    # Inside single quotes Hydra's grammar has two escapes: one for the quote, one for backslashes
    # before a quote or at the end.
    value = re.sub(r"(\\*)'", lambda found: 2 * found[1] + r"\'", value)
    return "'" + re.sub(r"(\\+)$", lambda found: 2 * found[1], value) + "'"


def _exists(value: str) -> bool:
    try:
        return Path(value).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, no home folder
        return False


def _parts(value: str) -> list[str]:
    """Split at commas outside quotes."""
    return [x.strip() for x in re.findall(r"(?:'[^']*'|\"[^\"]*\"|[^,])+", value)]


def replace_nodes(arguments: Sequence[str]) -> list[str]:
    """Let another class of optimiser or scheduler replace the one of the configuration.

    Hydra merges `scheduler={_target_: X}` and `scheduler._target_=X` into the default scheduler,
    whose arguments X does not take. Arguments of an optimiser are merged, except that new ones need
    no `+`.

    >>> replace_nodes(["scheduler._target_=X", "scheduler.T_max=9"])
    ['~scheduler', '+scheduler._target_=X', '+scheduler.T_max=9']
    """
    out = list(arguments)
    for node in ("scheduler", "optimizer"):
        whole = [a for a in out if re.match(rf"\+*{node}=\{{.*_target_", a)]
        target = [a for a in out if re.match(rf"\+*{node}\._target_=", a)]
        if not whole and not target:
            continue
        mine = [a for a in out if re.match(rf"[+~]*{node}[.=]", a) or a == f"~{node}"]
        at = out.index(mine[0])
        out = [a for a in out if a not in mine]
        plain = [a.lstrip("+") for a in mine if not a.startswith("~")]
        steps = any(re.search(r"[.=]StepLR$", a) for a in target)  # takes the default's arguments
        if whole or (node == "scheduler" and not steps):
            keep = [a for a in plain if not re.match(rf"{node}=[^{{]", a)]
            out[at:at] = [f"~{node}", *(f"+{a}" for a in keep)]
        else:
            out[at:at] = [a if re.match(rf"{node}=", a) else f"++{a}" for a in plain]
    return out
