"""Read files of word lists: JSON, and the annotations that the authors of CVSE published."""

from pathlib import Path
from typing import Any

import numpy as np

from itm.utils.contents import parse_json, read_text
from itm.utils.manifest import unsealed
from itm.utils.safe_pickle import read_arrays

CONCEPTS = ("category_concepts.json", "concepts.json")  # of CVSE's authors, of `itm.prepare`


def list_in(path: Path) -> Path:
    """Return the list of concepts in a folder; a path that is not a folder as it is.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: the folder has two.
    """
    if not path.is_dir():
        return path
    found = [path / name for name in CONCEPTS if (path / name).is_file()]
    if not found:
        raise FileNotFoundError(f"no word list in {path}: expected {' or '.join(CONCEPTS)}")
    if len(found) > 1:
        raise ValueError(f"{path} has two lists of concepts, {' and '.join(CONCEPTS)}: name one")
    return found[0]


def read_word_file(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no word list at {path}")
    try:
        data = parse_json(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON; expected a word list ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, expected a JSON object")
    return unsealed(path, data)


def words_of(index: Any, path: Path) -> list[str]:
    """Return the words of {word: index} in the order of their indices.

    Raises:
        ValueError: not a dict, or its indices are not 0 to n - 1.
    """
    if (
        not isinstance(index, dict)
        or any(type(i) is not int for i in index.values())
        or sorted(index.values(), key=str) != sorted(range(len(index)), key=str)
    ):
        raise ValueError(
            f"{path} is not a word list: expected {{word: index}} with indices from 0 to n - 1"
        )
    return sorted(index, key=index.__getitem__)


def read_original(path: Path) -> dict[str, Any]:
    """Read words, groups, counts, adjacency and vectors of CVSE's Concept_annotations.

    The pickles beside the word list are told apart by content: a dict with "adj_all" holds the
    counts, one with "poss" the groups, an array the word vectors. Missing parts are left out.

    Args:
        path: category_concepts.json, {word: index}.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not a word list, or a pickle holds more than arrays.
    """
    found: dict[str, Any] = {"words": words_of(read_word_file(path), path)}
    files: dict[str, Path] = {}
    for file in sorted(path.parent.glob("*concepts*.pkl")):
        data = read_arrays(file)
        kind = _kind(data)
        if kind in files:
            raise ValueError(
                f"{files[kind]} and {file} both hold {kind} of concepts; keep those of one corpus "
                "in the folder"
            )
        files |= {kind: file} if kind else {}
        if isinstance(data, np.ndarray) and data.ndim == 2:
            found["vectors"] = data
        elif isinstance(data, dict) and "adj_all" in data:
            found |= {"counts": data["nums"], "adjacency": data["adj_all"]}
        elif isinstance(data, dict) and "poss" in data:
            group = dict(zip(data["words"], data["poss"], strict=True))
            found["groups"] = [group[word] for word in found["words"]]
    return found


def _kind(data: Any) -> str:
    """Say what a pickle of the original holds."""
    if isinstance(data, np.ndarray) and data.ndim == 2:
        return "vectors"
    if isinstance(data, dict):
        return "counts" if "adj_all" in data else "groups" if "poss" in data else ""
    return ""
