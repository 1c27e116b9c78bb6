"""Check the options of `itm.evaluate` against each other and the split, before scoring starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from itm.app.config import listed
from itm.app.data_options import changed
from itm.utils.checks import check_choice
from itm.utils.log_files import say

if TYPE_CHECKING:
    from itm.data.layout import Split

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


def _check_shortlist(cfg: DictConfig) -> None:
    if cfg.shortlist < 1:
        raise ValueError(f"shortlist={cfg.shortlist} must be at least 1")
    others = cfg.transductive is not None or cfg.rerank is not None
    if cfg.similarity is not None or len(listed(cfg.checkpoint)) > 1 or others:
        raise ValueError(
            f"shortlist={cfg.shortlist} leaves most pairs of one matcher without a score of its "
            "own: give one checkpoint=, and no similarity=, rerank= or transductive="
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
