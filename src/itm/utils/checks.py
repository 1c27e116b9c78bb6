"""Check arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Check that an argument has one of the values that it may have.

    Raises:
        ValueError: it has another one; names all choices.
    """
    known = tuple(choices)
    if value not in known:
        raise ValueError(f"{name} must be {alternatives(known)}, got {value!r}")


def check_sizes(arguments: Mapping[str, object], prefix: str = "") -> None:
    """Check that the sizes among a model's arguments are positive; counts may be 0.

    Sizes are `vocab_size`, `hidden`, the names that end in `_dim` or `_len`, `num_layers` and
    `num_regions`; counts are the other names that begin with `num_` or end in `_steps`.

    Args:
        arguments: name -> value; only numbers and lists of numbers are checked.
        prefix: put before a name in messages, such as "model.".

    Raises:
        ValueError: a size or a count is too small, or no integer.
    """
    for name, value in arguments.items():
        least = _least(name)
        if least is None:
            continue
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, str) or (isinstance(number, float) and number % 1):
                raise ValueError(f"{prefix}{name} must be an integer, got {value!r}")
            if isinstance(number, int | float) and number < least:
                raise ValueError(f"{prefix}{name} must be at least {least}, got {value}")


def check_least(values: Mapping[str, object], least: Mapping[str, float]) -> None:
    """Check that numbers, or all numbers of lists, are not too small; None passes.

    Args:
        values: name -> value; those without a name in `least` and without numbers pass.
        least: name -> smallest value.

    Raises:
        ValueError: a number is too small.
    """
    for name, value in values.items():
        for number in value if isinstance(value, Sequence) else [value]:
            if name in least and isinstance(number, int | float) and not number >= least[name]:
                raise ValueError(f"{name} must be at least {least[name]}, got {value}")


def check_text(text: str, what: str) -> None:
    """Check that a text can be written: half of a character outside of UTF-8 cannot.

    Raises:
        ValueError: it holds a lone surrogate, from cut JSON or from bytes that are not UTF-8.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} {ascii(text[:60])} is not valid text: character {error.start} is half of one, "
            "as in a cut emoji, or a byte that is not UTF-8; write it in UTF-8"
        ) from error


def check_references(references: Sequence[Sequence[str]]) -> None:
    """Check that each image has a list of captions; a string would be read letter by letter.

    Raises:
        TypeError: an image has a string.
    """
    for row, captions in enumerate(references):
        if isinstance(captions, str):
            raise TypeError(
                f"the references of image {row} must be a list of captions, got the string "
                f"{captions[:40]!r}"
            )


def check_paths(paths: Mapping[str, str | Path | None]) -> None:
    """Check that the files or folders of options exist; None passes.

    Raises:
        FileNotFoundError: one does not.
    """
    for name, path in paths.items():
        if path is not None and not Path(path).expanduser().exists():
            raise FileNotFoundError(f"{name}={path}: there is no such file")


def _least(name: str) -> int | None:
    if name in ("vocab_size", "hidden", "num_layers", "num_regions"):
        return 1
    if name.endswith(("_dim", "_dims", "_len")):
        return 1
    return 0 if name.startswith("num_") or name.endswith("_steps") else None


def alternatives(choices: Iterable[str]) -> str:
    """Join choices for a message: "'a', 'b' or 'c'"."""
    *others, last = map(repr, choices)
    return f"{', '.join(others)} or {last}" if others else last
