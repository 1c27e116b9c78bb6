"""Check the options of `itm.evaluate` before scoring starts, and get the matrices to measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from itm.app.config import listed
from itm.app.data_options import changed
from itm.runs.escape import printable
from itm.utils.checks import check_choice
from itm.utils.extras import install
from itm.utils.log_files import say

if TYPE_CHECKING:
    import numpy as np

    from itm.data.layout import Split
    from itm.matcher.matcher import Matcher
    from itm.metrics.ranking import Ranks
    from itm.metrics.rerank import Bank

# Imports that load torch are late, so that `--help` does not wait for them.

BANKS = ("train", "val")
LEAST_MEMORY = 2**20  # a smaller number was probably meant in gigabytes


def check_options(cfg: DictConfig, split: Split) -> str:
    """Check options against each other and against the split.

    Returns:
        The protocol: as asked for, else the split's own.

    Raises:
        ValueError: options contradict each other or the split.
        FileNotFoundError: the file of relevance does not exist.
    """
    from itm.data.split import warnings_of
    from itm.metrics.protocols import check_size
    from itm.metrics.rerank import METHODS, check_bank
    from itm.models.cvse.transductive import PUBLISHED
    from itm.relevance.sentences import is_text_encoder
    from itm.relevance.sources import check_source
    from itm.utils.devices import PRECISIONS

    for option in ("checkpoint", "similarity"):
        if cfg[option] is not None and not listed(cfg[option]):
            raise ValueError(f"{option}=[] names no file")
    if (cfg.checkpoint is None) == (cfg.similarity is None):
        raise ValueError("give either checkpoint=FOLDER or similarity=FILE.npy (or a list of them)")
    _check_members("checkpoint", listed(cfg.checkpoint))
    _check_members("similarity", listed(cfg.similarity))
    protocol = cfg.protocol or split.protocol
    if cfg.protocol is None and protocol != cfg.data.protocol:
        say(
            f"scored by protocol {protocol}, because data.protocol={cfg.data.protocol} is for the "
            f"whole split {cfg.data.test}"
        )
    if cfg.similarity is None:  # a saved matrix may be of another split
        check_size(protocol, split.num_images, len(split.captions))
        for line in warnings_of(split):
            say(line)
    kinds = []
    for source in listed(cfg.relevance):
        check_source(source)
        kinds.append(is_text_encoder(source))
    if len(set(kinds)) < len(kinds):
        raise ValueError(
            f"relevance={list(cfg.relevance)}: give at most one of cider, spice and a file, and "
            "at most one text encoder"
        )
    if cfg.batch_size < 1:
        raise ValueError(f"batch_size={cfg.batch_size}: expected at least 1")
    if cfg.failures < 0:
        raise ValueError(f"failures={cfg.failures}: expected at least 0")
    if cfg.memory_budget is not None and cfg.memory_budget < LEAST_MEMORY:
        raise ValueError(
            f"memory_budget={cfg.memory_budget} is too small: it is a number of bytes, at least "
            f"{LEAST_MEMORY} (1 MiB); the default is 1073741824 (1 GiB)"
        )
    check_choice("precision", cfg.precision or "32-true", tuple(PRECISIONS))
    for method in listed(cfg.rerank):
        check_choice("rerank", method, METHODS)
        check_bank(method, cfg.rerank_bank is not None)
    if cfg.rerank_bank is not None:
        check_choice("rerank_bank", cfg.rerank_bank, BANKS)
        _check_bank(cfg)
    if cfg.rerank_beta <= 0:
        raise ValueError(f"rerank_beta={cfg.rerank_beta} must be above 0; 20 suits cosines")
    if cfg.shortlist is not None:
        _check_shortlist(cfg)
    if cfg.transductive is not None:
        check_choice("transductive", cfg.transductive, tuple(PUBLISHED))
    if vain := _options_in_vain(cfg):
        raise ValueError("; ".join(f"{option} has no effect {why}" for option, why in vain))
    return protocol


def find_matrices(
    cfg: DictConfig, split: Split, matchers: Mapping[str, Matcher]
) -> dict[str, np.ndarray]:
    """Score the split by each matcher, or read the saved matrices.

    Args:
        cfg: the options.
        split: N images, M captions.
        matchers: path of the checkpoint -> matcher.

    Returns:
        Name -> (N, M): the members, their ensemble, and scores with completed labels.

    Raises:
        ValueError: `transductive=` is given without a CVSE, or a saved matrix cannot be used.
    """
    from itm.app.model_outputs import score_completed
    from itm.matcher.split_scores import score_matchers, warn_words
    from itm.runs.ensembles import with_ensemble
    from itm.runs.matrices import check_origin, read_matrices

    completed: dict[str, np.ndarray] = {}
    if cfg.transductive is not None:  # first, since it fails if no matcher has labels
        completed = score_completed(matchers, split, cfg.transductive, cfg.batch_size)
    if cfg.similarity is not None:
        paths = listed(cfg.similarity)
        matrices = read_matrices(paths)
        for path, matrix in zip(paths, matrices, strict=True):
            check_origin(path, matrix, split)
        _check_made(cfg, paths)
        _tell_equal(paths, matrices)
        return with_ensemble(paths, matrices, cfg.pairs) | completed
    if split.name != cfg.data.train:
        _tell_trained(matchers, split)
    for path, matcher in matchers.items():
        for line in warn_words(matcher, split):
            say(printable(f"{path}: {line}" if len(matchers) > 1 else line))
    precision = cfg.precision or "32-true"
    if precision != "32-true":
        say(f"scoring in precision {precision}")
    found = score_matchers(
        matchers, split, cfg.batch_size, cfg.memory_budget, precision, cfg.shortlist
    )
    paths = listed(cfg.checkpoint)
    _tell_equal(paths, [found[path] for path in paths])
    return with_ensemble(paths, [found[path] for path in paths], cfg.pairs) | completed


def find_owner(cfg: DictConfig, matrix: np.ndarray, split: Split) -> np.ndarray:
    """Find the (M,) row of each caption's image; say so if the matrix is of another split.

    Raises:
        ValueError: the matrix fits neither the split nor five captions per image, or an option
            needs the captions, which only its own split has.
    """
    from itm.runs.matrices import caption_owner, fits_split

    owner = caption_owner(matrix, split)
    if not fits_split(matrix, split):
        say(
            f"matrix {matrix.shape} is not from split {split.name}: five captions per image assumed"
        )
        for option in ("failures", "relevance"):
            if cfg[option]:
                raise ValueError(
                    f"{option}={cfg[option]} needs the captions of the matrix: give data="
                )
    return owner


def find_relevance(cfg: DictConfig, split: Split) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Compute the matrices (M, N) of `relevance=`: of any source, and of a text encoder.

    Each is None if no source of its kind is given.
    """
    from itm.relevance.sentences import is_text_encoder
    from itm.relevance.sources import relevance

    found: dict[bool, np.ndarray] = {}
    for source in listed(cfg.relevance):
        matrix = relevance(source, split.captions, split.references())
        found[is_text_encoder(source)] = matrix
    return found.get(False), found.get(True)


def plot(ranks: Mapping[str, Ranks], path: Path) -> None:
    """Draw the recall at every K of each row, if matplotlib is installed."""
    try:
        from itm.visual.report_figures import plot_ranks
    except ImportError:
        say(f"no plot: {install('plot')}")
    else:
        plot_ranks(ranks, path)


def find_banks(
    cfg: DictConfig, split: Split, bank: Split, matchers: Mapping[str, Matcher]
) -> dict[str, Bank]:
    """Score the split for the queries of a bank, by each matcher and their ensemble.

    Args:
        cfg: the options.
        split: the split that is scored.
        bank: the split whose images and captions are the queries of the bank.
        matchers: path of the checkpoint -> matcher.

    Returns:
        Name of the matrix, as in `find_matrices` -> bank.
    """
    from itm.matcher.split_scores import score_banks
    from itm.metrics.rerank import Bank
    from itm.runs.ensembles import with_ensemble

    paths, precision = listed(cfg.checkpoint), cfg.precision or "32-true"
    scored = score_banks(matchers, split, bank, cfg.batch_size, precision)
    known = [scored[path] for path in paths]
    images, captions = (
        with_ensemble(paths, list(side), cfg.pairs) for side in zip(*known, strict=True)
    )
    return {name: Bank(images[name], captions[name]) for name in images}


def scored_with(cfg: DictConfig) -> dict[str, Any]:
    """Return what changes scores or graded metrics, other than defaults; reports tell it apart."""
    from itm.relevance.sentences import is_text_encoder
    from itm.relevance.sources import source_name
    from itm.runs.matrices import HOW, made_with

    options = {
        "shortlist": cfg.shortlist,
        "precision": None if cfg.precision == "32-true" else cfg.precision,
    }
    made = [made_with(path) for path in listed(cfg.similarity)]
    for key in HOW if any(made) else ():  # of all saved matrices, or a list of each one's own
        each = [one.get(key) for one in made]
        options[key] = each[0] if len(set(each)) == 1 else each
    sources = listed(cfg.relevance)
    kinds = {"text" if is_text_encoder(x) else "graded": source_name(x) for x in sources}
    facts = {**options, "relevance": kinds or None}
    return {name: value for name, value in facts.items() if value is not None}


def describe_queries(bank: Split | None) -> str:
    """Say what the re-ranked numbers need besides the scores of a query."""
    if bank is None:
        return "all test queries at hand"
    return (
        f"a bank of queries: {bank.num_images} images and {len(bank.captions)} {bank.noun}s of "
        f"split {bank.name}"
    )


def _options_in_vain(cfg: DictConfig) -> list[tuple[str, str]]:
    """List the given options that others leave without effect: (option, why)."""
    scoring = "model_class device precision batch_size memory_budget describe"
    rules = (
        ("with similarity=, whose scores are read", cfg.similarity is not None, scoring),
        ("without rerank=", not listed(cfg.rerank), "rerank_beta"),
        ("without rerank_bank=", cfg.rerank_bank is None, "rerank_bank_images"),
        ("without failures=", not cfg.failures, "images"),
        ("with fewer than three matchers", _members(cfg) < 3, "pairs"),
    )
    return [
        (option, why)
        for why, applies, options in rules
        if applies
        for option in changed(cfg, "evaluate", options.split())
    ]


def _members(cfg: DictConfig) -> int:
    return len(listed(cfg.checkpoint) or listed(cfg.similarity))


def _check_members(option: str, paths: Sequence[str]) -> None:
    """Refuse a file that comes twice, under one path or two: the mean would count it twice."""
    from itm.matcher.saved import find_weights

    first: dict[tuple[int, int], int] = {}
    for i, path in enumerate(paths):
        file = find_weights(Path(path)) if option == "checkpoint" else Path(path)
        if file is None or not file.is_file():
            continue  # loading it says what is missing
        about = file.stat()
        at = first.setdefault((about.st_dev, about.st_ino), i)
        if at != i:
            same = "twice" if paths[at] == path else f"as {paths[at]} and as {path}"
            raise ValueError(
                f"{option}= names {file} {same}, so an ensemble would count it twice: leave one out"
            )


def _tell_trained(matchers: Mapping[str, Matcher], split: Split) -> None:
    """Say which matchers were trained on images of the split."""
    from itm.data.origin import warn_trained

    for path, matcher in matchers.items():
        for line in warn_trained(matcher.trained_on, split):
            say(printable(f"{path}: {line}" if len(matchers) > 1 else line))


def _tell_equal(paths: Sequence[str], matrices: Sequence[np.ndarray]) -> None:
    """Say which members of an ensemble score all pairs equally, such as copies of one file."""
    for (a, first), (b, second) in combinations(zip(paths, matrices, strict=True), 2):
        if first.shape == second.shape and (first == second).all():
            say(
                printable(
                    f"warning: {a} and {b} give every pair the same score; an ensemble counts them "
                    "twice"
                )
            )


def _check_shortlist(cfg: DictConfig) -> None:
    if cfg.shortlist < 1:
        raise ValueError(f"shortlist={cfg.shortlist} must be at least 1")
    others = cfg.transductive is not None or cfg.rerank is not None
    if cfg.similarity is not None or len(listed(cfg.checkpoint)) > 1 or others:
        raise ValueError(
            f"shortlist={cfg.shortlist} leaves most pairs of one matcher without a score of its "
            "own: give one checkpoint=, and no similarity=, rerank= or transductive="
        )


def _check_made(cfg: DictConfig, paths: Sequence[str]) -> None:
    """Say how saved scores were computed; refuse those of a shortlist where `shortlist=` is."""
    from itm.runs.matrices import made_with

    for path in paths:
        made = made_with(path)
        for option, value in made.items():
            say(printable(f"{path} was scored with {option}={value}"))
        if "shortlist" in made and (len(paths) > 1 or listed(cfg.rerank)):
            raise ValueError(
                f"{path} was scored with shortlist={made['shortlist']}, so most of its pairs have "
                "no score of their own: measure it alone and without rerank=, or score again "
                "without shortlist="
            )


def _check_bank(cfg: DictConfig) -> None:
    if not listed(cfg.rerank):
        raise ValueError(
            f"rerank_bank={cfg.rerank_bank} needs rerank=qb_norm or rerank=inverted_softmax"
        )
    if cfg.similarity is not None or cfg.transductive is not None:
        raise ValueError(
            f"rerank_bank={cfg.rerank_bank} scores queries of another split, so it needs "
            "checkpoint= and no transductive="
        )
    if cfg.rerank_bank_images is not None and cfg.rerank_bank_images < 1:
        raise ValueError(f"rerank_bank_images={cfg.rerank_bank_images} must be at least 1")
