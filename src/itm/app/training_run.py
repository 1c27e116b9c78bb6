"""Set up a training run: build data, trainer and matcher, check them, and record the attempt."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig

from itm.app.build import build_data, build_matcher
from itm.app.checks import (
    check_callbacks,
    check_disk,
    check_monitors,
    check_protocol,
    tell_unused,
)
from itm.app.loading import apply_loading
from itm.app.optimisation import check_optimisation, check_used
from itm.app.replaced import settle
from itm.app.trainer import build_trainer
from itm.checkpoints.initialise import start_from
from itm.runs.record import environment, write_json
from itm.runs.sweep import FAILURE

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from itm.data.module import RegionDataModule
    from itm.matcher.matcher import Matcher


class Training(NamedTuple):
    """What a training run works with.

    Attributes:
        data: data module.
        trainer: Lightning trainer.
        matcher: matcher with its optimiser and schedule.
        loading: note on how features reach the GPU, or None.
    """

    data: RegionDataModule
    trainer: pl.Trainer
    matcher: Matcher
    loading: str | None


def build_training(cfg: DictConfig, out: Path, typed: Sequence[str]) -> Training:
    """Build data, trainer and matcher, and check what would otherwise fail during the training.

    Args:
        cfg: configuration of `itm.train`.
        out: folder of the run.
        typed: options that were given on the command line.

    Raises:
        ValueError: options contradict each other, or the data lacks what they need.
    """
    check_used(cfg, typed)
    tell_unused(cfg, typed)
    if cfg.word_vectors is not None and cfg.init is not None:
        raise ValueError(f"init={cfg.init} brings its own word vectors: leave word_vectors out")
    data = build_data(cfg)
    trainer: Any = build_trainer(cfg)
    loading = apply_loading(data, trainer, typed)  # before anything reads the data
    matcher = build_matcher(cfg, data)
    # An epoch has at least one row of curves, however short it is.
    trainer.log_every_n_steps = max(1, min(trainer.log_every_n_steps, len(data.train_sampler())))
    if cfg.init is not None:
        start_from(matcher, cfg.init)
    matcher.chunk_size = cfg.chunk_size
    if cfg.compile:
        matcher.compile()
    check_monitors(trainer, matcher)
    check_callbacks(trainer, matcher)
    check_optimisation(matcher, trainer, len(data.train_sampler()))
    check_disk(out, matcher)
    if cfg.test:
        check_protocol(data.test_split)
    return Training(data, trainer, matcher, loading)


def begin_run(training: Training, out: Path, seed: int, typed: Sequence[str]) -> dict[str, Any]:
    """Write run.json, and delete what the run replaces.

    Returns:
        The command, the seed and the environment, to be recorded with the results, too.
    """
    command = shlex.join(["python", "-m", "itm.train", *typed])
    record = {"command": command, "seed": seed, **environment()}
    if training.trainer.is_global_zero:
        (out / FAILURE).unlink(missing_ok=True)  # of an earlier attempt
        # For resume=: every attempt rewrites Hydra's own record, and not atomically.
        facts = {"overrides": list(typed), "data": training.data.fingerprint()}
        write_json(out / "run.json", {**record, **facts})
        settle()  # the run begins: what it replaces is deleted
    return record
