"""Convert weights of the original code bases to matchers, and back.

Each family has a file here with its tables of names and two functions. `read` turns the state dicts
and options of an original checkpoint into constructor arguments and tensors, or returns None if the
tensors belong to another family; `write` does the reverse. This file finds the family and checks
options, vocabulary and concepts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from itm.checkpoints.strict import check_finite, load_strictly
from itm.matcher.matcher import LossFunction, Matcher
from itm.models import (
    CASC,
    CHAN,
    CVSE,
    SCAN,
    SGRAF,
    VSEPP,
    VSRN,
    TwoBranchEmbedding,
    TwoBranchSimilarity,
    VSEInfinity,
)
from itm.published import casc, chan, cvse, scan, sgraf, two_branch, vse_infty, vsepp, vsrn
from itm.published.companions import read_captioner, take_concepts
from itm.published.files import read_checkpoint, write_checkpoint
from itm.published.tables import SIZES, Known, Options, State
from itm.published.transformer import COMMAND, read_text
from itm.published.vocabulary import numbered_words, read_vocabulary
from itm.text.vocabulary import Vocabulary, with_mask
from itm.utils.checks import check_choice

__all__ = ["FAMILIES", "TRAINING", "from_published", "read_checkpoint", "save_published"]


class Family(NamedTuple):
    """The weights of one original code base.

    Attributes:
        matcher: our class.
        read: state dicts and options -> constructor arguments and tensors, or None.
        write: matcher -> state dicts and options.
        masks: its training masks words, but its vocabulary files lack the last word, <mask>.
    """

    matcher: type[Matcher]
    read: Callable[[list[State], Known], tuple[Options, State] | None]
    write: Callable[[Any], tuple[list[State], Options]]
    masks: bool = False


# More specific families first: CASC's tensors include those of SCAN, and VSE++'s are those of a
# SCAN with one direction.
FAMILIES = {
    "casc": Family(CASC, casc.read, casc.write),
    "chan": Family(CHAN, chan.read, chan.write, masks=True),
    "sgraf": Family(SGRAF, sgraf.read, sgraf.write),
    "cvse": Family(CVSE, cvse.read, cvse.write),
    "vsrn": Family(VSRN, vsrn.read, vsrn.write),
    "vse_infty": Family(VSEInfinity, vse_infty.read, vse_infty.write, masks=True),
    "vsepp": Family(VSEPP, vsepp.read, vsepp.write),
    "scan": Family(SCAN, scan.read, scan.write),
    "two_branch_embedding": Family(
        TwoBranchEmbedding, two_branch.read_embedding, two_branch.write_embedding
    ),
    "two_branch_similarity": Family(
        TwoBranchSimilarity, two_branch.read_similarity, two_branch.write_similarity
    ),
}

# Options that the tensors determine, too: original option -> our argument.
STATED = {
    **SIZES,
    "bi_gru": "bidirectional",
    "module_name": "module",
    "sim_dim": "sim_dim",
    "sgr_step": "sgr_steps",
    "num_attribute": "num_concepts",
    "input_channel": "concept_dim",
    "use_BatchNorm": "use_batchnorm",
}

# Options that every original command line sets and its model or evaluation reads, with defaults.
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
    text: str | Path | None = None,
) -> Matcher:
    """Build a matcher with the weights of an original checkpoint, in eval mode.

    Args:
        checkpoint: `model_best.pth.tar` of the original code; for the two-branch networks also an
            .npz file of their variables, or the prefix of a TensorFlow checkpoint.
        vocab: its vocabulary, JSON or pickle file, or object; vocabularies are never rebuilt.
        concepts: CVSE's concept words in order, with their word vectors: a `Concepts`, a file of
            one, or the original's category_concepts.json with the pickles beside it.
        family: one of `FAMILIES`; found from the tensor names when None.
        captioner: weights of VSRN's captioning branch, which the original does not save.
        loss: a loss object, for further training.
        options: the original's options, if the checkpoint lacks them or holds wrong ones.
        tokenizer: how captions were split in training, if the vocabulary file does not say, see
            `itm.text.Vocabulary`: "bytes_repr" for the authors' CVSE.
        text: configuration and words of weights with a BERT: a folder with config.json and
            vocab.txt or tokenizer files, or a name on the hub. It replaces `vocab`.

    Raises:
        OSError: a file cannot be opened.
        ValueError: the family is unknown, tensors are missing, unexpected or of another shape,
            options are misspelt or contradict the tensors, the vocabulary has another size than the
            embedding table, or concepts are missing or belong to other weights.
    """
    if tokenizer is not None and vocab is None:
        raise ValueError(f"tokenizer={tokenizer} needs a vocabulary: give vocab= too")
    states, known = read_checkpoint(checkpoint)
    known = {**known, **(options or {})}
    source = str(checkpoint)
    name, found, read = _find_family(states, known, family, source)
    assumed = read.assumed
    for given, what, owner in ((concepts, "concepts", "cvse"), (captioner, "captioner", "vsrn")):
        if given is not None and name != owner:
            raise ValueError(f"{what}= is for {owner}, but {source} holds weights of {name}")
    if captioner is not None:
        _, found, read = _find_family([*states, read_captioner(captioner)], known, name, source)
    _check_given(options or {}, read, name)
    arguments, tensors = found
    _check_options(arguments, known, source)
    if (arguments.get("text") or {}).get("name") == "bert":
        config, vocab = read_text(text, source, vocab is not None)
        arguments["text"] = {**arguments["text"], "config": config}
    elif text is not None:
        raise ValueError(
            f"text= belongs to weights with a BERT; {source} holds {name} without one{COMMAND}"
        )
    if vocab is None and isinstance(known.get("word2idx"), dict):
        vocab = numbered_words(known["word2idx"], f"{source}: opt.word2idx")
    if assumed:
        print(
            f"{source} does not say {', '.join(assumed)}; assumed "
            f"{', '.join(f'{key}={value}' for key, value in assumed.items())}, the defaults of "
            f"{name}'s code; give options= if these weights were trained otherwise"
        )
    matcher: Any = FAMILIES[name].matcher(**arguments, loss=loss)
    if matcher.needs_concepts:
        tensors = {**take_concepts(matcher, concepts, tensors, source), **tensors}
    check_finite(tensors, source)
    load_strictly(matcher, tensors, source)
    if vocab is not None:
        words = read_vocabulary(vocab) if isinstance(vocab, (str, Path)) else vocab
        size = arguments.get("vocab_size")
        if FAMILIES[name].masks and size == len(words) + 1 and isinstance(words, Vocabulary):
            words = with_mask(words)
        if size is not None and len(words) != size:
            raise ValueError(
                f"the vocabulary has {len(words)} words, but the embedding table of {checkpoint} "
                f"has {size} rows: use the vocabulary that these weights were trained with"
            )
        if tokenizer is not None:
            words = Vocabulary(words.words, words.markers, tokenizer, words.pad_to)
        if name == "cvse" and getattr(words, "tokenizer", None) == "treebank" and tokenizer is None:
            print(
                "captions will be split as sentences (tokenizer=treebank); the authors' CVSE was "
                "trained on Python's form of bytes: give tokenizer=bytes_repr for their weights, "
                "or tokenizer=treebank to leave this line out"
            )
        matcher.vocab = words
    return matcher.eval()


def _find_family(
    states: list[State], options: Options, family: str | None, source: str
) -> tuple[str, tuple[Options, State], Known]:
    """Find the family with these tensor names.

    Returns:
        Its name; its arguments and tensors; and the options as they were read.
    """
    names = [family] if family is not None else list(FAMILIES)
    for name in names:
        check_choice("family", name, tuple(FAMILIES))
        known = Known(options)
        try:
            found = FAMILIES[name].read(states, known)
        except KeyError as error:  # the family is clear, but a size is missing
            missing, hint = error.args, ""
            if known.asked.issuperset(missing):  # options, not tensors
                given = ", ".join(f"{x!r}: ..." for x in missing)
                command = " ".join(f"+options.{x}=..." for x in missing)
                hint = f": give options={{{given}}} (in a command {command})"
            lacks = ", ".join(map(repr, missing))
            raise ValueError(f"{source}: {name} weights without their {lacks}{hint}") from error
        if found is not None:
            if family is None and name == "vsepp" and "measure" not in options:
                raise ValueError(
                    f"{source}: these tensors fit VSE++ and a SCAN with one direction, and the "
                    "options that tell them apart are missing: give family='vsepp' or "
                    "family='scan', or the options themselves"
                )
            return name, found, known
    some = sorted(key for state in states for key in state)[:6]
    raise ValueError(
        f"{source}: its tensors ({', '.join(some)}, ...) are not those of "
        f"{' or '.join(names)}; read checkpoints of itm with itm.load"
    )


def _check_given(options: Options, read: Known, family: str) -> None:
    """Refuse misspelt options, and name those that change nothing.

    Raises:
        ValueError: an option that is not read is spelt like one that was assumed.
    """
    idle = [x for x in options if x not in read.asked and x not in STATED and x not in TRAINING]
    for name in idle:
        if near := get_close_matches(name, read.assumed, n=1, cutoff=0.8):
            raise ValueError(f"{family} has no option {name!r}; did you mean {near[0]!r}?")
    if idle:
        print(f"options without effect on {family} weights: {', '.join(idle)}")


def _check_options(arguments: Options, options: Options, source: str) -> None:
    """Compare options with tensors: only options reveal a missing layer or direction."""
    for name, value in arguments.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(
                f"{source}: its option for {name} is {value}, expected a finite number"
            )
    for theirs, ours in STATED.items():
        if theirs == "sgr_step" and arguments.get("module") != "SGR":
            continue
        if theirs in options and ours in arguments and options[theirs] != arguments[ours]:
            raise ValueError(
                f"{source}: its options say {theirs}={options[theirs]}, its tensors "
                f"{arguments[ours]}: tensors are missing, or these are the options of other weights"
            )


def save_published(matcher: Matcher, path: str | Path, options: Options | None = None) -> None:
    """Write a checkpoint that the original code reads.

    Args:
        matcher: a matcher of one of `FAMILIES`.
        path: the file, usually named model_best.pth.tar; .npz for variables of TensorFlow.
        options: further options for `opt`, with the original's names. Options that neither these
            nor the matcher set, such as the learning rate, get their published defaults.

    Raises:
        OSError: the file cannot be written; an earlier one is unchanged.
        ValueError: the matcher has no original, or the original code does not have its form, so
            scores would differ.
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
