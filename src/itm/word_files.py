"""Files of word lists: arrays in JSON, the original's concept files, weights, word vectors."""

import base64
import io
import json
import pickle
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def pack(array: np.ndarray) -> str:
    """An array as a short string: .npy bytes, compressed, base64."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return base64.b64encode(zlib.compress(buffer.getvalue(), 9)).decode("ascii")


def unpack(text: str) -> np.ndarray:
    """The array of `pack`."""
    return np.load(io.BytesIO(zlib.decompress(base64.b64decode(text))), allow_pickle=False)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no word list at {path}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON word list ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, expected a JSON object")
    return data


def words_of(index: Any, path: Path) -> list[str]:
    """The words of {word: index} in the order of their indices.

    Raises:
        ValueError: not such a dict, or its indices are not 0 to n - 1.
    """
    if not isinstance(index, dict) or sorted(index.values(), key=str) != sorted(
        range(len(index)), key=str
    ):
        raise ValueError(f"{path} is no word list: expected {{word: index}} with indices from 0")
    return sorted(index, key=index.__getitem__)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numpy arrays and plain containers; anything else is refused."""

    ALLOWED = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
        *((f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed here")
        return super().find_class(module, name)


def read_arrays(path: Path) -> Any:
    """The content of a pickle of numpy arrays and plain containers.

    Raises:
        ValueError: it holds anything else.
    """
    try:
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise ValueError(f"{path} could not be read safely: {error}") from error


def read_original(path: Path) -> dict[str, Any]:
    """Words, groups, counts, adjacency and vectors of CVSE's Concept_annotations.

    The pickles beside the word list are told apart by content: a dict with "adj_all" holds the
    counts, one with "poss" the groups, an array the word vectors. What is missing is left out.

    Args:
        path: category_concepts.json, {word: index}.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no word list, or a pickle holds more than arrays.
    """
    found: dict[str, Any] = {"words": words_of(read_json(path), path)}
    for file in sorted(path.parent.glob("*concepts*.pkl")):
        data = read_arrays(file)
        if isinstance(data, np.ndarray) and data.ndim == 2:
            found["vectors"] = data
        elif isinstance(data, dict) and "adj_all" in data:
            found |= {"counts": data["nums"], "adjacency": data["adj_all"]}
        elif isinstance(data, dict) and "poss" in data:
            group = dict(zip(data["words"], data["poss"], strict=True))
            found["groups"] = [group[word] for word in found["words"]]
    return found


def positive_weights(
    given: Sequence[float] | float | str | Path | None, num_labels: int
) -> list[float] | None:
    """Weights of labels that are present, as a configuration gives them.

    Args:
        given: K numbers; one for all labels (1 = unweighted); a .npy file of K numbers, such as the
            original's caption_np.npy; or None or "auto".
        num_labels: number K of labels.

    Returns:
        K numbers; None, where they are to come from the label vocabulary.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such numbers, or another number of them than of labels.
    """
    if given is None or str(given) == "auto":
        return None
    name = "pos_weight"
    if isinstance(given, (str, Path)):
        name = f"pos_weight={given}"
        if not Path(given).is_file():
            raise FileNotFoundError(
                f"{name}: no such file; give a .npy file of {num_labels} numbers, the numbers, one "
                "for all labels (1 = unweighted), or auto = from the label vocabulary"
            )
    try:
        read = np.load(given, allow_pickle=False) if isinstance(given, (str, Path)) else given
        weights = np.asarray(read, np.float32)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{name}: expected {num_labels} plain numbers ({error})") from error
    weights = np.ravel(weights if weights.ndim else np.full(num_labels, weights))
    if len(weights) != num_labels:
        raise ValueError(
            f"{name}: {len(weights)} positive weights, num_labels={num_labels}; give the weights "
            "and the label vocabulary (data.labels=FILE) that belong together"
        )
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"{name}: weights must be finite and at least 0")
    return weights.tolist()


def word_vectors(
    words: Sequence[str], path: str | Path, seed: int = 0, missing: np.ndarray | None = None
) -> np.ndarray:
    """(V, G) float32 vectors of the words, from a .npy file or a text file as GloVe's.

    A text file has one word and its numbers a line; the first line of a word counts, a line with
    one number only (a header) does not. A word that is not in it is looked up without '-', '.' and
    apostrophes, up to a '/', as CVSE does; then a hyphenated one gets the mean of its parts, any
    other its row of `missing`, by default seeded N(0, 1) numbers (CVSE). Upper case is not lowered.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a .npy file with another number of rows; a text file with none of the words,
            or without equally many numbers behind them.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no word vectors at {path}")
    if path.suffix == ".npy":
        table = np.load(path, allow_pickle=False)
        if table.ndim != 2 or len(table) != len(words):
            raise ValueError(
                f"{path} is {table.shape}, expected a row for each of the {len(words)} words"
            )
        return table.astype(np.float32)
    bare = [re.sub("[-.']", "", word).split("/")[0] for word in words]
    wanted = {*words, *bare, *(part for word in words for part in word.split("-"))} - {""}
    found: dict[str, np.ndarray] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            word, _, numbers = line.rstrip().partition(" ")
            if word in wanted and word not in found and " " in numbers:
                try:
                    found[word] = np.array(numbers.split(" "), np.float32)
                except ValueError:  # GloVe 840B has words with blanks: "at name@domain.com"
                    continue
    if not found:
        raise ValueError(
            f"{path} has a vector for none of the {len(words)} words; expected lines 'word 0.1 0.2'"
        )
    widths = {len(vector) for vector in found.values()}
    if len(widths) != 1:
        raise ValueError(f"{path} has vectors of widths {sorted(widths)} for these words")
    size = (len(words), widths.pop())
    if missing is None or missing.shape != size:
        missing = np.random.default_rng(seed).standard_normal(size)
    out = missing.copy()
    for k, word in enumerate(words):
        parts = [found[part] for part in word.split("-") if part in found]
        vector = found.get(word, found.get(bare[k]))
        if vector is not None:
            out[k] = vector
        elif parts:
            out[k] = np.mean(parts, 0)
    return out.astype(np.float32)
