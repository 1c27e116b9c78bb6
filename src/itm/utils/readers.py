"""Turn the errors that other libraries raise on damaged files into `ValueError` or `OSError`.

Every reader of the library raises `OSError` if a file cannot be opened, and `ValueError` if its
content is wrong; both name the file.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from itm.utils.changes import check_unchanged, state_of
from itm.utils.errors import first_line

P = ParamSpec("P")
T = TypeVar("T")

# Never the fault of a file; a missing package is reported with the extra that installs it.
PASSED_ON = (KeyboardInterrupt, SystemExit, GeneratorExit, ImportError)


@contextmanager
def reading(path: str | Path, problem: str = "could not be read") -> Iterator[None]:
    """Raise errors of the block as `ValueError` or `OSError` with the name of a file.

    Errors of these types that name the file pass unchanged. Pipes and devices are refused at once,
    and a file that is changed in place during the block is an error at its end.

    Args:
        path: the file or folder that the block reads.
        problem: completes the sentence that begins with the path.

    Raises:
        OSError: the file cannot be opened.
        ValueError: any other error, even one that is not an `Exception`, such as a panic of
            tokenizers.
    """
    path = os.path.expanduser(path)
    check_regular(path)
    before = {path: state_of(path)}
    try:
        yield
        check_unchanged(before)
    except PASSED_ON:
        raise
    except BaseException as error:
        check_unchanged(before)
        named = Path(path).name in str(error)
        if named and isinstance(error, (ValueError, OSError)):
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise ValueError(f"{path} {problem} ({first_line(error)})") from error


def check_regular(path: str | Path) -> None:
    """Refuse a pipe, socket or device, which a reader might wait for without end.

    Raises:
        ValueError: the path is neither a file nor a folder; one that does not exist passes.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is a pipe, socket or device, expected a regular file")


def reader(
    problem: str = "could not be read", path: str = "path"
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function or generator that reads a file: its errors are those of `reading`.

    Args:
        problem: as in `reading`.
        path: name of the parameter that holds the file or folder.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        def checked(args: Any, kwargs: Any) -> AbstractContextManager[None]:
            where = signature.bind(*args, **kwargs).arguments.get(path)
            return reading(where, problem) if isinstance(where, (str, Path)) else nullcontext()

        @functools.wraps(function)
        def read(*args: P.args, **kwargs: P.kwargs) -> T:
            with checked(args, kwargs):
                return function(*args, **kwargs)

        @functools.wraps(function)
        def read_items(*args: P.args, **kwargs: P.kwargs) -> Any:
            with checked(args, kwargs):
                yield from function(*args, **kwargs)  # type: ignore[misc]

        return read_items if inspect.isgeneratorfunction(function) else read

    return decorate


def read_json(path: Path, kind: type = dict) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        kind: `dict` or `list`, the type of its outermost value.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is not JSON in UTF-8, or holds another type.
    """
    with reading(path, "is not a JSON file"):
        content = json.loads(path.read_bytes().decode("utf-8"))
    if not isinstance(content, kind):
        expected = "a JSON object" if kind is dict else "a JSON list"
        raise ValueError(f"{path} holds a {type(content).__name__}, expected {expected}")
    return content
