"""Check the options of `itm.evaluate` before scoring starts, which may take minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from itm.app.config import listed
from itm.utils.checks import check_choice

if TYPE_CHECKING:
    from itm.data.layout import Split

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
    # Late, because they load torch, and `--help` should not wait for it.
    from itm.metrics.protocols import check_size
    from itm.metrics.rerank import METHODS, check_bank
    from itm.models.cvse.transductive import PUBLISHED
    from itm.relevance.sources import check_source
    from itm.utils.devices import PRECISIONS

    if (cfg.checkpoint is None) == (cfg.similarity is None):
        raise ValueError("give either checkpoint=FOLDER or similarity=FILE.npy (or a list of them)")
    protocol = cfg.protocol or split.protocol
    if cfg.similarity is None:  # a saved matrix may be of another split
        check_size(protocol, split.num_images, len(split.captions))
    if cfg.relevance is not None:
        check_source(cfg.relevance)
    if cfg.batch_size < 1:
        raise ValueError(f"batch_size={cfg.batch_size}: expected at least 1")
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
    if cfg.transductive is not None:
        check_choice("transductive", cfg.transductive, tuple(PUBLISHED))
    return protocol


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
