"""Weights of the original code bases, read safely and strictly.

Every model file offers `published(states, options)`: the list of state dicts and the options of an
original checkpoint -> (constructor arguments, state dict), or None when the tensor names are those
of another family. Here the family is found, and options, vocabulary and concepts are checked.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from itm.checkpoints.strict import check_finite, load_strictly
from itm.published.files import read_checkpoint, write_checkpoint
from itm.published.vocabulary import read_vocabulary
from itm.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from itm.matcher.matcher import Matcher

__all__ = ["FAMILIES", "from_published", "load_strictly", "read_checkpoint", "save_published"]

# More specific families first: a SCAN checkpoint's tensors are a part of CASC's.
FAMILIES = {
    "casc": ("itm.models.casc.casc", "CASC"),
    "sgraf": ("itm.models.sgraf.sgraf", "SGRAF"),
    "cvse": ("itm.models.cvse.cvse", "CVSE"),
    "vsrn": ("itm.models.vsrn.vsrn", "VSRN"),
    "scan": ("itm.models.scan", "SCAN"),
    "two_branch_embedding": ("itm.models.two_branch.embedding", "TwoBranchEmbedding"),
    "two_branch_similarity": ("itm.models.two_branch.similarity", "TwoBranchSimilarity"),
}

# Options that say what tensors say too: theirs -> our argument.
STATED = {
    "vocab_size": "vocab_size",
    "img_dim": "img_dim",
    "word_dim": "word_dim",
    "embed_size": "embed_dim",
    "num_layers": "num_layers",
    "bi_gru": "bidirectional",
    "module_name": "module",
    "sim_dim": "sim_dim",
    "sgr_step": "sgr_steps",
    "num_attribute": "num_concepts",
    "input_channel": "concept_dim",
    "use_BatchNorm": "use_batchnorm",
}

# What every original command line sets and its model or evaluation reads, at its defaults.
TRAINING = {
    "data_path": "./data/",
    "data_name": "f30k_precomp",
    "vocab_path": "./vocab/",
    "logger_name": "./runs/runX/log",
    "model_name": "./runs/runX/checkpoint",
    "resume": "",
    "margin": 0.2,
    "max_violation": True,
    "num_epochs": 30,
    "batch_size": 128,
    "learning_rate": 2e-4,
    "lr_update": 15,
    "grad_clip": 2.0,
    "workers": 10,
    "log_step": 10,
    "val_step": 500,
}


def from_published(
    checkpoint: str | Path,
    vocab: str | Path | Vocabulary | None = None,
    concepts: Any = None,
    family: str | None = None,
    captioner: str | Path | None = None,
    loss: Any = None,
    options: dict[str, Any] | None = None,
    tokenizer: str | None = None,
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
        tokenizer: how captions were split in training, where the vocabulary file does not tell, see
            `itm.text.Vocabulary`: "bytes_repr" for the authors' CVSE.

    Raises:
        ValueError: tensors of no known family, missing or unexpected tensors, shapes that do not
            fit, options that contradict the tensors, a vocabulary of another size than the
            embedding table, or concepts that are missing or of other weights.
    """
    if tokenizer is not None and vocab is None:
        raise ValueError(f"tokenizer={tokenizer} finds the words of a vocabulary: give vocab= too")
    states, known = read_checkpoint(checkpoint)
    known = {**known, **(options or {})}
    source = str(checkpoint)
    name, found = _find_family(states, known, family, source)
    for given, what, owner in ((concepts, "concepts", "cvse"), (captioner, "captioner", "vsrn")):
        if given is not None and name != owner:
            raise ValueError(f"{what}= belongs to {owner}; {source} holds weights of {name}")
    if captioner is not None:
        _, found = _find_family([*states, _read_captioner(captioner)], known, name, source)
    arguments, tensors, *classname = found
    _check_options(arguments, known, source)
    module, cls = FAMILIES[name]
    matcher_class = getattr(importlib.import_module(module), classname[0] if classname else cls)
    matcher = matcher_class(**arguments, loss=loss)
    if matcher.needs_concepts:
        tensors = {**_take_concepts(matcher, concepts, tensors, source), **tensors}
    check_finite(tensors, source)
    load_strictly(matcher, tensors, source)
    if vocab is not None:
        words = read_vocabulary(vocab) if isinstance(vocab, (str, Path)) else vocab
        size = arguments.get("vocab_size")
        if size is not None and len(words) != size:
            raise ValueError(
                f"the vocabulary has {len(words)} words but the embedding table of {checkpoint} "
                f"has {size} rows: use the vocabulary file these weights were trained with"
            )
        if tokenizer is not None:
            words = Vocabulary(words.words, words.markers, tokenizer, words.pad_to)
        matcher.vocab = words
    return matcher.eval()


def _find_family(
    states: list[dict[str, Tensor]], options: dict[str, Any], family: str | None, source: str
) -> tuple[str, tuple[Any, ...]]:
    """The family whose tensor names these are, and what its `published` returns."""
    names = [family] if family is not None else list(FAMILIES)
    for name in names:
        if name not in FAMILIES:
            raise ValueError(f"unknown family {name!r}; known: {', '.join(FAMILIES)}")
        try:
            found = importlib.import_module(FAMILIES[name][0]).published(states, options)
        except KeyError as error:  # the family is known, but not what its sizes are
            raise ValueError(f"{source}: {name} weights without their {error}") from error
        if found is not None:
            return name, found
    some = sorted(key for state in states for key in state)[:6]
    raise ValueError(
        f"{source}: its tensors ({', '.join(some)}, ...) are not those of "
        f"{' or '.join(names)}; itm.load reads a checkpoint of itm itself"
    )


def _check_options(arguments: dict[str, Any], options: dict[str, Any], source: str) -> None:
    """Where tensors are missing as a whole, of a layer or a direction, only the options tell."""
    for theirs, ours in STATED.items():
        if theirs == "sgr_step" and arguments.get("module") != "SGR":
            continue
        if theirs in options and ours in arguments and options[theirs] != arguments[ours]:
            raise ValueError(
                f"{source}: its options say {theirs}={options[theirs]}, its tensors "
                f"{arguments[ours]}: tensors are missing, or these are the options of other weights"
            )


def _read_captioner(path: str | Path) -> dict[str, Tensor]:
    """The captioning branch's state dict."""
    states, _ = read_checkpoint(path)
    names = [name for state in states for name in state]
    if len(states) != 1 or not any(name.startswith("encoder.vid2hid") for name in names):
        raise ValueError(
            f"captioner={path} holds {', '.join(sorted(names)[:4])}, ...: expected the tensors of "
            "VSRN's captioning branch, encoder.vid2hid... and decoder..."
        )
    return states[0]


def _take_concepts(
    matcher: Any, concepts: Any, tensors: dict[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Concept words and the tensors that come with them: no checkpoint holds either."""
    from itm.text.concepts import Concepts

    if isinstance(concepts, (str, Path)):
        concepts = Concepts.load(concepts)
    if not isinstance(concepts, Concepts) or concepts.vectors is None:
        given = f"a {type(concepts).__name__} without them" if concepts is not None else "nothing"
        raise ValueError(
            f"{source} holds neither the concept words nor their word vectors: give concepts=, the "
            "folder of category_concepts.json and its pickles, or a Concepts with vectors; given "
            f"was {given}"
        )
    matcher.set_concepts(concepts)
    counted = concepts.counts is not None and concepts.adjacency is not None
    mine, theirs = matcher.graph.adjacency, tensors.get("graph.adjacency", torch.empty(0))
    if counted and mine.shape == theirs.shape and not torch.allclose(mine, theirs, atol=1e-4):
        raise ValueError(
            f"these {len(concepts)} concepts ({', '.join(concepts.words[:4])}, ...) are not "
            f"those that {source} was trained with: the graph of their counts is another"
        )
    return {"graph.vectors": matcher.graph.vectors}


def save_published(matcher: Any, path: str | Path, options: dict[str, Any] | None = None) -> None:
    """Write a checkpoint that the original code reads.

    Args:
        matcher: a matcher whose class has `to_published`.
        path: the file, usually named model_best.pth.tar; .npz for variables of TensorFlow.
        options: further options for `opt`; the original's own names. What neither they nor the
            matcher tell, such as the learning rate, is at its published default.

    Raises:
        ValueError: a form that the original code does not have, so that scores would be others.
    """
    from itm.losses import Triplet

    states, known = matcher.to_published()
    loss = getattr(matcher.loss, "ranking", matcher.loss)
    if isinstance(loss, Triplet):
        known = {"margin": loss.margin, "max_violation": loss.negatives == "hardest", **known}
    if len(states) > 1:
        known = {**TRAINING, **known}
    write_checkpoint(path, states, {**known, **(options or {})})
