"""Check arguments."""

from __future__ import annotations

from collections.abc import Iterable


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Check that an argument has one of the values that it may have.

    Raises:
        ValueError: it has another one; names all choices.
    """
    known = tuple(choices)
    if value not in known:
        raise ValueError(f"{name} must be {alternatives(known)}, got {value!r}")


def alternatives(choices: Iterable[str]) -> str:
    """Join choices for a message: "'a', 'b' or 'c'"."""
    *others, last = map(repr, choices)
    return f"{', '.join(others)} or {last}" if others else last
