"""Get the matrices that `itm.evaluate` measures, and what they are measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from itm.app.config import listed
from itm.runs.escape import printable
from itm.utils.extras import install
from itm.utils.log_files import say

if TYPE_CHECKING:
    import numpy as np

    from itm.data.layout import Split
    from itm.matcher.matcher import Matcher
    from itm.metrics.ranking import Ranks
    from itm.metrics.rerank import Bank

# Imports that load torch are late, so that `--help` does not wait for them.


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
        needed = {"failures": "captions", "relevance": "captions", "pmrp": "ids of the images"}
        for option, what in needed.items():
            if cfg[option]:
                raise ValueError(
                    f"{option}={cfg[option]} needs the {what} of the matrix: give data="
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
