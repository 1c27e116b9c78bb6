"""Set up a training run, record its beginning, and test and record what it reached."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from itm.app.batch_limits import check_limits, epoch_batches, tell_single_pairs
from itm.app.build import build_data, build_matcher
from itm.app.checks import check_disk, check_protocol
from itm.app.choices import check_recipe
from itm.app.config import (
    config_folders,
    own_folders,
    recorded_configuration,
    run_name,
)
from itm.app.loading import apply_loading
from itm.app.optimisation import check_optimisation, check_used
from itm.app.processes import check_launcher
from itm.app.replaced import delete_earlier
from itm.app.sweep_options import of_one_run
from itm.app.trainer import build_trainer
from itm.app.trainer_checks import check_callbacks, check_checkpoints, check_monitors
from itm.app.unused import check_applied, tell_unused_protocol
from itm.data.origin import warn_chosen, warn_trained
from itm.matcher.weight_identity import weight_digest
from itm.runs.plain_files import CONFIGURATION
from itm.runs.record import (
    FAILURE,
    describe_size,
    environment,
    split_facts,
    write_json,
    write_ranks,
    write_results,
)
from itm.runs.tables import run_table
from itm.runs.training_results import ranked_part
from itm.training.callbacks import WarmupInEpochs
from itm.training.progress import say
from itm.utils.log_files import log

if TYPE_CHECKING:
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
    check_recipe(typed, config_folders())
    check_used(cfg, typed)
    check_applied(cfg, typed)
    tell_unused_protocol(cfg, typed)
    data = build_data(cfg)
    trainer: Any = build_trainer(cfg)
    check_launcher(trainer.world_size, trainer.num_devices * trainer.num_nodes)
    loading = apply_loading(data, trainer, typed)  # before anything reads the data
    matcher = build_matcher(cfg, data)
    trainer.callbacks.append(Settle(out))
    if cfg.warmup_epochs:
        trainer.callbacks.insert(0, WarmupInEpochs())  # before `LastCheckpoint` adapts the place
    batches = epoch_batches(trainer, data)
    # Each epoch has at least one row of curves.
    trainer.log_every_n_steps = max(1, min(trainer.log_every_n_steps, batches))
    check_monitors(trainer, matcher)
    check_callbacks(trainer, matcher)
    check_checkpoints(trainer, out)
    check_optimisation(matcher, trainer, batches)
    check_disk(out, matcher)
    check_limits(trainer, data, cfg.test)
    tell_single_pairs(trainer, data)
    if cfg.test:
        check_protocol(data.test_split)
    return Training(data, trainer, matcher, loading)


_described: set[tuple[str, str]] = set()  # folders and lines of data that jobs of a sweep printed


def tell_start(training: Training, out: Path) -> None:
    """Print matcher, data and folder; a sweep prints the same data once, each log has them."""
    data, matcher = training.data, training.matcher
    size, about = f"{type(matcher).__name__}: {describe_size(matcher)}", data.describe()
    if (str(data.root), about) in _described:
        print(f"{size}\n{out}", flush=True)
        log(f"{size}\n{about}\n{out}")
    else:
        say(f"{size}\n{about}\n{out}")
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        _described.add((str(data.root), about))
    if training.loading is not None:
        say(training.loading)
    if origin := data.origin():
        val, test = data.val_split, data.test_split
        learnt = chain(*(warn_trained([origin], split) for split in (val, test)))
        for line in chain(learnt, warn_chosen(val, test)):
            say(line)


class Settle(pl.Callback):
    """Replace earlier files after the first step of a run: some options are refused only there.

    Attributes:
        record: run.json of a resumed run, or None.
    """

    def __init__(self, out: Path):
        self.out = out
        self.record: dict[str, Any] | None = None
        self._is_done = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Replace them once a step was made."""
        if trainer.is_global_zero and trainer.global_step > 0:
            self.replace_earlier()

    def replace_earlier(self) -> None:
        """Delete the earlier run, and write the record; later calls have nothing to do."""
        if self._is_done:
            return  # without a look at the disk, which may be far away
        delete_earlier(self.out)
        if self.record is not None:
            write_json(self.out / "run.json", self.record)
        self._is_done = True


def begin_run(
    training: Training, out: Path, cfg: DictConfig, typed: Sequence[str], changes: Sequence[str]
) -> dict[str, Any]:
    """Write run.json, for a resumed run after its first step (`Settle`).

    Args:
        training: what will be trained.
        out: folder of the run.
        cfg: its configuration.
        typed: options of the command line.
        changes: of the training, in all attempts of a resumed run.

    Returns:
        The command, the seed, the environment and the changes, to be recorded with the results,
        too.
    """
    options, own = of_one_run(typed, config_folders()), own_folders()
    folders = [f"--config-dir={folder}" for folder in own]  # without them, other files are read
    command = shlex.join(["python", "-m", "itm.train", *options, *folders])
    device = training.trainer.strategy.root_device
    record = {"command": command, "seed": cfg.seed, **environment(device)}
    if not training.trainer.is_global_zero:
        return record
    record |= {"changes": [*changes]} if changes else {}
    # For resume=: every attempt rewrites Hydra's own record, and not atomically.
    facts = {"overrides": options, "data": training.data.fingerprint()}
    facts |= {"config_dir": own[0]} if own else {}
    hydra = HydraConfig.get().runtime
    runtime = {"choices": dict(hydra.choices), "cwd": hydra.cwd}
    facts |= {CONFIGURATION: {"config": recorded_configuration(cfg), "runtime": runtime}}
    (out / FAILURE).unlink(missing_ok=True)  # of an earlier attempt
    if cfg.resume and (out / "run.json").is_file():
        _settler(training.trainer).record = {**record, **facts}
    else:
        write_json(out / "run.json", {**record, **facts})
    return record


def _settler(trainer: Any) -> Settle:
    return next(callback for callback in trainer.callbacks if isinstance(callback, Settle))


def finish_run(
    training: Training, record: Mapping[str, Any], results: dict[str, Any], out: Path, test: bool
) -> dict[str, Any]:
    """Test the best checkpoint if asked to; write results.json and print the table.

    Args:
        training: what was trained.
        record: what `begin_run` returned.
        results: what `training_results` returned.
        out: folder of the run.
        test: score the test split.

    Returns:
        The results, with those of the test.
    """
    if training.trainer.is_global_zero:
        _settler(training.trainer).replace_earlier()  # a run may have no training
    data, trainer, matcher, _ = training
    split, keeper = data.val_split, cast(Any, trainer.checkpoint_callback)
    images, part = ranked_part(matcher.ranks, split)
    parts = ["val"] if part else []
    facts: dict[str, Any] = {}
    if test and trainer.limit_test_batches and not trainer.interrupted:
        split, best = data.test_split, keeper.best_model_path or None  # None = the last weights
        tested: Any = trainer.test(matcher, data, ckpt_path=best, verbose=False)
        results = {**results, **tested[0]}
        if trainer.is_global_zero:
            facts["weights"] = weight_digest(matcher)
        images, part = ranked_part(matcher.ranks, split)
        parts += ["test"] if part else []
        if trainer.is_global_zero and matcher.ranks is not None and not part:
            write_ranks(out / "ranks.npz", *matcher.ranks, split.caption_image)
    if trainer.is_global_zero:
        facts |= {**split_facts(split, split.protocol), "images": images}
        facts |= {"partial": parts} if parts else {}
        write_results(out, {**results, **record, **facts})
        kept = f"best checkpoint: {keeper.best_model_path}"
        if not keeper.best_model_path:
            fast = trainer.fast_dev_run  # type: ignore[attr-defined]
            kept = "no best checkpoint: " + (
                "fast_dev_run writes none" if fast else "no validation ran"
            )
            last = out / "checkpoints" / "last.ckpt"
            kept += f"; the weights of the last step: {last}" if last.is_file() else ""
        table = run_table(results, run_name(), parts)
        say(f"{table}\n{kept}" if table else kept)
    return results
