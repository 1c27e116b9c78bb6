"""Quote paths and free text on the command line, so that Hydra keeps every character."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

# Options that hold free text: every character counts, quotes included.
TEXT = ("query", "caption", "image")

# Options of all commands that hold a path, a list of paths, or a name that may be a path.
PATHS = (
    "checkpoint", "similarity", "relevance", "pmrp", "eccv", "model_class", "index", "queries",
    "images", "out", "phrases", "vectors", "source", "captions", "splits.train", "splits.dev",
    "splits.test", "backbone", "boxes", "published", "vocab", "bert", "concepts", "captioner",
    "runs", "keep", "pages", "init", "resume", "word_vectors", "model.text.path",
    "model.concept_vectors", "model.pos_weight", "loss.pos_weight", "data.root", "data.vocab",
    "data.labels", "data.concepts", "data.phrases.path", "data.noise_file", "data.train",
    "data.val", "data.test", "data.split", "callbacks.checkpoint.dirpath",
    "callbacks.checkpoint.filename", "callbacks.last.dirpath", "logger.csv.save_dir",
    "logger.tensorboard.save_dir", "logger.tensorboard.name", "logger.wandb.save_dir",
    "logger.wandb.project", "logger.mlflow.tracking_uri", "logger.mlflow.experiment_name",
    "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.name", "revision",
)  # fmt: skip
LISTS = ("checkpoint", "similarity", "runs", "relevance", "pages")
NUMBERS = ("model.pos_weight", "loss.pos_weight")  # may also be a number or a list of numbers

KEYWORDS = ("null", "true", "false")
PLAIN = re.compile(r"[A-Za-z_/.][\w/.\-+@%]*", re.ASCII)  # Hydra reads these characters as they are
SWEEPS = re.compile(r"(choice|glob|range|interval|tag|shuffle|sort)\(.*\)")


def quote(argument: str, sweeps: bool = False) -> str:
    """Quote the value of an option in `TEXT` or `PATHS`, so that Hydra keeps its characters.

    A path may also be null, true or false, contain references such as ${now:%Y}, or already be
    quoted. A leading ~ becomes the home folder.

    Args:
        argument: one argument of the command line.
        sweeps: commas separate the values of a sweep, unless a file with the whole name exists.

    Examples:
        >>> quote("query=a dog, two cats"), quote("data.root=data (1)"), quote("top=3")
        ("query='a dog, two cats'", "data.root='data (1)'", 'top=3')
    """
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    if not equals or (name in TEXT and value in ("''", '""')):
        return argument
    if name in TEXT:
        return f"{key}={_quoted(_without_references(value))}"
    if name not in PATHS or SWEEPS.fullmatch(value) or re.fullmatch(r"\{.*:.*\}", value):
        return argument
    if name in NUMBERS and re.fullmatch(r"\[[\d., eE+-]*\]|[\d.eE+-]+", value):
        return argument
    if not _exists(value):
        if name in LISTS and value[:1] + value[-1:] == "[]":
            return f"{key}=[{','.join(map(quote_path, _parts(value[1:-1])))}]"
        if sweeps and "," in value and not name.startswith("hydra."):
            return f"{key}={','.join(map(quote_path, _parts(value)))}"
    return f"{key}={quote_path(value)}"


def as_typed(value: Any) -> str:
    """Write a value as it is given on the command line.

    Examples:
        >>> as_typed(None), as_typed(True), as_typed([1, "a"])
        ('null', 'true', '[1,a]')
    """
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def unquote(value: str) -> str:
    """Undo `quote` for a value; other values stay as they are."""
    if _is_quoted(value):
        mark = value[0]
        return re.sub(rf"(\\+)(?={mark}|$)", lambda f: f[1][: len(f[1]) // 2], value[1:-1])
    return re.sub(r"\\([\\()\[\]{}:=, ])", r"\1", value)


def quote_path(value: str) -> str:
    """Quote one path, see `quote`."""
    if value.startswith("~"):
        value = os.path.expanduser(value)
    if value.lower() in KEYWORDS or _is_plain(value):
        return value
    if "${" in value and _exists(value):
        value = _without_references(value)
    elif not _exists(value) and (_is_quoted(value) or re.search(r"\\[\\()\[\]{}:=, ]", value)):
        return value  # escaped for Hydra by the user
    return _quoted(value)


def _is_plain(value: str) -> bool:
    try:
        float(value)  # a folder may be named 2024
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


def _without_references(value: str) -> str:
    """Put a backslash before ${, so that OmegaConf does not look for an option of that name."""
    return re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", value)


def _exists(value: str) -> bool:
    try:
        return Path(value).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, no home folder
        return False


def _parts(value: str) -> list[str]:
    """Split a list of paths: at commas outside quotes, but not within the name of a file."""
    pieces, found = value.split(","), []
    while pieces:
        ends = range(len(pieces), 0, -1)
        names = [name for end in ends if _exists(name := ",".join(pieces[:end]).strip()) and name]
        if not names:  # some are not there (yet)
            return [x.strip() for x in re.findall(r"(?:'[^']*'|\"[^\"]*\"|[^,])+", value)]
        found.append(names[0])
        pieces = pieces[names[0].count(",") + 1 :]
    return found
