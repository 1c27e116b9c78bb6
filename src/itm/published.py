"""Weights of the original code bases, read safely and strictly.

Every model file offers `published(states, options)`: the list of state dicts and the options of an
original checkpoint -> (constructor arguments, state dict), or None when the tensor names are those
of another family. Here the file is read, the family found, and the vocabulary checked.
"""

from __future__ import annotations

import argparse
import importlib
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from itm.checkpoint import first_line
from itm.published_vocab import read_vocabulary
from itm.tensorflow import read_variables
from itm.text import Vocabulary

if TYPE_CHECKING:
    from itm.matcher import Matcher

# More specific families first: a SCAN checkpoint's tensors are a part of CASC's.
FAMILIES = {
    "casc": ("itm.models.casc", "CASC"),
    "sgraf": ("itm.models.sgraf", "SGRAF"),
    "cvse": ("itm.models.cvse", "CVSE"),
    "vsrn": ("itm.models.vsrn", "VSRN"),
    "scan": ("itm.models.scan", "SCAN"),
    "two_branch_embedding": ("itm.models.two_branch", "TwoBranchEmbedding"),
    "two_branch_similarity": ("itm.models.two_branch_similarity", "TwoBranchSimilarity"),
}

# What a torch file may hold beside tensors and plain containers: options, and best results that
# were kept as numpy scalars (under the module's old and new name).
_SCALAR = np.float64(0).__reduce__()[0]
SAFE: list[Any] = [
    argparse.Namespace,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
]


def read_checkpoint(path: str | Path) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
    """State dicts and options of an original checkpoint.

    A torch file, zip or legacy format (only tensors, plain containers, numpy scalars and
    `argparse.Namespace` are unpickled), an .npz file of named arrays, or the prefix of a TensorFlow
    checkpoint.

    Raises:
        FileNotFoundError: no such file.
        ValueError: foreign classes in the pickle, or no checkpoint.
    """
    path = Path(path)
    if Path(f"{path}.index").is_file():
        return [read_variables(path)], {}
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".npz":
        return [_read_npz(path)], {}
    try:
        with torch.serialization.safe_globals(SAFE), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise ValueError(
            f"{path} could not be read safely: only tensors, plain containers and "
            f"argparse.Namespace are accepted ({first_line(error)})"
        ) from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, not the dict of a checkpoint")
    opt: Any = data.get("opt") or {}
    options: dict[str, Any] = vars(opt) if isinstance(opt, argparse.Namespace) else dict(opt)
    model: Any = data.get("model", data.get("state_dict", data))
    states = list(model) if isinstance(model, (list, tuple)) else [model]
    for state in states:
        if not isinstance(state, (dict, OrderedDict)):
            raise ValueError(f"{path}: 'model' holds a {type(state).__name__}, not state dicts")
    # DataParallel prefixes every name with "module."
    return [{k.removeprefix("module."): v for k, v in state.items()} for state in states], options


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:  # a damaged archive can raise anything
        raise ValueError(
            f"{path} could not be read safely: an .npz file of plain arrays is expected "
            f"({first_line(error)})"
        ) from error


def from_published(
    checkpoint: str | Path,
    vocab: str | Path | Vocabulary | None = None,
    concepts: Any = None,
    family: str | None = None,
    captioner: str | Path | None = None,
    loss: Any = None,
    options: dict[str, Any] | None = None,
) -> Matcher:
    """A matcher with the weights of an original checkpoint, in eval mode.

    Args:
        checkpoint: `model_best.pth.tar` of the original code; for the two-branch networks also an
            .npz file of their variables, or the prefix of a TensorFlow checkpoint.
        vocab: its vocabulary, JSON or pickle file, or object; vocabularies are never rebuilt.
        concepts: CVSE's concept words in order, with their word vectors: a `Concepts`, a file of
            one, or the original's category_concepts.json with the pickles beside it.
        family: one of `FAMILIES`; found from the tensor names when None.
        captioner: VSRN's captioning branch, which the original saves nowhere.
        loss: a loss object, for further training.
        options: the original's options where the checkpoint does not hold them (or to correct it).

    Raises:
        ValueError: tensors of no known family, missing or unexpected tensors, shapes that do not
            fit, a vocabulary of another size than the embedding table, or concepts missing.
    """
    states, known = read_checkpoint(checkpoint)
    known |= options or {}
    if captioner is not None:
        states = [*states, *read_checkpoint(captioner)[0]]
    names = [family] if family is not None else list(FAMILIES)
    for name in names:
        if name not in FAMILIES:
            raise ValueError(f"unknown family {name!r}; known: {', '.join(FAMILIES)}")
        module, cls = FAMILIES[name]
        try:
            found = importlib.import_module(module).published(states, known)
        except KeyError as error:  # the family is known, but not what its sizes are
            raise ValueError(f"{checkpoint}: {name} weights without their {error}") from error
        if found is not None:
            break
    else:
        some = sorted(key for state in states for key in state)[:6]
        raise ValueError(
            f"{checkpoint}: its tensors ({', '.join(some)}, ...) are not those of "
            f"{' or '.join(names)}; itm.load reads a checkpoint of itm itself"
        )
    arguments, tensors, *classname = found
    matcher_class = getattr(importlib.import_module(module), classname[0] if classname else cls)
    matcher = matcher_class(**arguments, loss=loss)
    if matcher.needs_concepts:
        tensors = {**_take_concepts(matcher, concepts, str(checkpoint)), **tensors}
    load_strictly(matcher, tensors, str(checkpoint))
    if vocab is not None:
        words = read_vocabulary(vocab) if isinstance(vocab, (str, Path)) else vocab
        size = arguments.get("vocab_size")
        if size is not None and len(words) != size:
            raise ValueError(
                f"the vocabulary has {len(words)} words but the embedding table of {checkpoint} "
                f"has {size} rows: use the vocabulary file these weights were trained with"
            )
        matcher.vocab = words
    return matcher.eval()


def _take_concepts(matcher: Any, concepts: Any, source: str) -> dict[str, Tensor]:
    """Concept words and the tensors that come with them: no checkpoint holds either."""
    from itm.concepts import Concepts

    if isinstance(concepts, (str, Path)):
        concepts = Concepts.load(concepts)
    if concepts is None or concepts.vectors is None:
        raise ValueError(
            f"{source} holds neither the concept words nor their word vectors: give concepts=, the "
            "folder of category_concepts.json and its pickles, or a Concepts with vectors"
        )
    matcher.set_concepts(concepts)
    return {"graph.vectors": matcher.graph.vectors}


def load_strictly(matcher: Matcher, tensors: dict[str, Tensor], source: str) -> None:
    """Load weights; every tensor must be there, known, and of the right shape.

    Raises:
        ValueError: with the names that are missing, unexpected or misshapen.
    """
    own = {k: v for k, v in matcher.state_dict().items() if not k.startswith("loss.")}
    problems = [f"missing {k} {tuple(own[k].shape)}" for k in own if k not in tensors]
    problems += [f"unexpected {k} {tuple(tensors[k].shape)}" for k in tensors if k not in own]
    problems += [
        f"{k} is {tuple(tensors[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in tensors and own[k].shape != tensors[k].shape
    ]
    if problems:
        raise ValueError(
            f"{source}: weights do not fit {type(matcher).__name__}:\n  " + "\n  ".join(problems)
        )
    matcher.load_state_dict(tensors, strict=matcher.loss is None)


def save_published(matcher: Any, path: str | Path, options: dict[str, Any] | None = None) -> None:
    """Write a checkpoint that the original code reads.

    Args:
        matcher: a matcher whose class has `to_published`.
        path: the file, usually named model_best.pth.tar; .npz for variables of TensorFlow, which
            holds no options.
        options: further options for `opt`; the original's own names.

    Raises:
        ValueError: a form that the original code does not have, so that scores would be others.
    """
    states, known = matcher.to_published()
    if Path(path).suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in states[0].items()})
        return
    opt = argparse.Namespace(**{**known, **(options or {})})
    data = {"epoch": 0, "model": states, "best_rsum": 0.0, "opt": opt, "Eiters": 0}
    if len(states) == 1:  # the names of the two-branch networks' PyTorch port
        data |= {"state_dict": states[0], "best_acc": 0.0}
    torch.save(data, path)
