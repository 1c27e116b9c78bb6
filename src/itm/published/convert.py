"""Weights of the original code bases, read safely and strictly, and written.

Every family has a file here with its tables of names and two functions: one reads the state dicts
and options of an original checkpoint into constructor arguments and tensors, or returns None when
the tensors are those of another family; one writes them from a matcher. This file finds the family
and checks options, vocabulary and concepts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from itm.checkpoints.strict import check_finite, load_strictly
from itm.matcher.matcher import LossFunction, Matcher
from itm.models import CASC, CVSE, SCAN, SGRAF, VSRN, TwoBranchEmbedding, TwoBranchSimilarity
from itm.published import casc, cvse, scan, sgraf, two_branch, vsrn
from itm.published.files import read_checkpoint, write_checkpoint
from itm.published.tables import Options, State
from itm.published.vocabulary import read_vocabulary
from itm.text.concepts import Concepts
from itm.text.vocabulary import Vocabulary

__all__ = ["FAMILIES", "TRAINING", "from_published", "read_checkpoint", "save_published"]


class Family(NamedTuple):
    """The weights of one original code base.

    Attributes:
        matcher: our class.
        read: state dicts and options -> constructor arguments and tensors, or None.
        write: matcher -> state dicts and options.
    """

    matcher: type[Matcher]
    read: Callable[[list[State], Options], tuple[Options, State] | None]
    write: Callable[[Any], tuple[list[State], Options]]


# More specific families first: a SCAN checkpoint's tensors are a part of CASC's.
FAMILIES = {
    "casc": Family(CASC, casc.read, casc.write),
    "sgraf": Family(SGRAF, sgraf.read, sgraf.write),
    "cvse": Family(CVSE, cvse.read, cvse.write),
    "vsrn": Family(VSRN, vsrn.read, vsrn.write),
    "scan": Family(SCAN, scan.read, scan.write),
    "two_branch_embedding": Family(
        TwoBranchEmbedding, two_branch.read_embedding, two_branch.write_embedding
    ),
    "two_branch_similarity": Family(
        TwoBranchSimilarity, two_branch.read_similarity, two_branch.write_similarity
    ),
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
    loss: LossFunction | None = None,
    options: Options | None = None,
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
    arguments, tensors = found
    _check_options(arguments, known, source)
    matcher: Any = FAMILIES[name].matcher(**arguments, loss=loss)
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
    states: list[State], options: Options, family: str | None, source: str
) -> tuple[str, tuple[Options, State]]:
    """Find the family that knows these tensor names, and read them."""
    names = [family] if family is not None else list(FAMILIES)
    for name in names:
        if name not in FAMILIES:
            raise ValueError(f"unknown family {name!r}; known: {', '.join(FAMILIES)}")
        try:
            found = FAMILIES[name].read(states, options)
        except KeyError as error:  # the family is known, but not what its sizes are
            raise ValueError(f"{source}: {name} weights without their {error}") from error
        if found is not None:
            return name, found
    some = sorted(key for state in states for key in state)[:6]
    raise ValueError(
        f"{source}: its tensors ({', '.join(some)}, ...) are not those of "
        f"{' or '.join(names)}; itm.load reads a checkpoint of itm itself"
    )


def _check_options(arguments: Options, options: Options, source: str) -> None:
    """Where tensors are missing as a whole, of a layer or a direction, only the options tell."""
    for theirs, ours in STATED.items():
        if theirs == "sgr_step" and arguments.get("module") != "SGR":
            continue
        if theirs in options and ours in arguments and options[theirs] != arguments[ours]:
            raise ValueError(
                f"{source}: its options say {theirs}={options[theirs]}, its tensors "
                f"{arguments[ours]}: tensors are missing, or these are the options of other weights"
            )


def _read_captioner(path: str | Path) -> State:
    """The captioning branch's state dict."""
    states, _ = read_checkpoint(path)
    names = [name for state in states for name in state]
    if len(states) != 1 or not any(name.startswith("encoder.vid2hid") for name in names):
        raise ValueError(
            f"captioner={path} holds {', '.join(sorted(names)[:4])}, ...: expected the tensors of "
            "VSRN's captioning branch, encoder.vid2hid... and decoder..."
        )
    return states[0]


def _take_concepts(matcher: Any, concepts: Any, tensors: State, source: str) -> State:
    """Give a matcher its concept words, and return their vectors: no checkpoint holds either."""
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


def save_published(matcher: Matcher, path: str | Path, options: Options | None = None) -> None:
    """Write a checkpoint that the original code reads.

    Args:
        matcher: a matcher of one of `FAMILIES`.
        path: the file, usually named model_best.pth.tar; .npz for variables of TensorFlow.
        options: further options for `opt`; the original's own names. What neither they nor the
            matcher tell, such as the learning rate, is at its published default.

    Raises:
        ValueError: a matcher without an original, or in a form that the original code does not
            have, so that scores would differ.
    """
    write = next((x.write for x in FAMILIES.values() if isinstance(matcher, x.matcher)), None)
    if write is None:
        raise ValueError(
            f"{type(matcher).__name__} has no original code base; expected one of "
            f"{', '.join(x.matcher.__name__ for x in FAMILIES.values())}"
        )
    states, known = write(matcher)
    hinge = None if matcher.loss is None else matcher.objective.ranked.hinge()
    if hinge is not None:
        known = {"margin": hinge.margin, "max_violation": hinge.negatives == "hardest", **known}
    if len(states) > 1:
        known = {**TRAINING, **known}
    write_checkpoint(path, states, {**known, **(options or {})})
