"""Wrap the private parts of Lightning that this library uses.

`pyproject.toml` bounds the version of Lightning from above, and
`tests/unit/training/test_lightning_contract.py` runs each function below on a small Trainer, so
that a release which changes one of these parts fails there first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from torch.optim import Optimizer

# Where training stands --------------------------------------------------------------------------


def attached_trainer(module: object) -> Trainer | None:
    """Return the trainer of a LightningModule, or None; `module.trainer` would raise instead."""
    return getattr(module, "_trainer", None)


def keep_samplers(trainer: Trainer) -> None:
    """Keep the samplers of the loaders, as `use_distributed_sampler=False` does.

    Lightning would split data among processes that the loaders have split already.
    """
    trainer._accelerator_connector.use_distributed_sampler = False


def saves_between_validations(keeper: ModelCheckpoint) -> bool:
    """Tell whether a callback writes its file after steps or minutes, with an older score."""
    return bool(keeper._every_n_train_steps or keeper._train_time_interval)


def accumulates(trainer: Trainer) -> bool:
    """Whether the gradients of this batch wait for further batches before the optimiser steps.

    `accumulate_grad_batches` alone is not enough: the last batch of an epoch always steps.
    """
    return trainer.fit_loop._should_accumulate()


def ends_epoch(trainer: Trainer) -> bool:
    """Whether this training batch is the last of its epoch."""
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def validates_next(trainer: Trainer) -> bool:
    """Whether a validation follows this training batch.

    Only Lightning's own method knows how `val_check_interval`, `check_val_every_n_epoch`,
    `limit_val_batches` and a request to stop combine.
    """
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None, "training has not begun"
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def count_steps(trainer: Trainer) -> float:
    """Return the number of optimiser steps of the whole training; infinite if no limit is known.

    Lightning makes the training loader to count its batches.
    """
    return _count(trainer, lambda: trainer.estimated_stepping_batches)


def steps_per_epoch(trainer: Trainer) -> float:
    """Return the number of optimiser steps of an epoch; infinite if unknown, or if it changes."""

    def count() -> float:
        if trainer.train_dataloader is None:
            trainer.fit_loop.setup_data()
        return trainer.num_training_batches

    unit = trainer.accumulate_grad_batches
    for changing in trainer.callbacks:  # type: ignore[attr-defined]
        changes = isinstance(changing, GradientAccumulationScheduler)
        if changes and {*changing.scheduling.values()} != {unit}:
            return math.inf
    batches = _count(trainer, count)
    return batches if math.isinf(batches) else math.ceil(batches / unit)


def _count(trainer: Trainer, count: Callable[[], float]) -> float:
    """Count something of the training loader, which Lightning may make for this.

    When a run is resumed, that is before it reads the loader's state, which it would then never
    apply: a new loader must be made.
    """
    if getattr(trainer, "ckpt_path", None) is None:
        return count()
    loop = trainer.fit_loop
    made = loop._combined_loader is not None
    found = count()
    if not made and loop._data_fetcher is not None:
        loop._data_fetcher.teardown()
        loop._combined_loader = loop._data_fetcher = None
    return found


def planned_step(trainer: Trainer) -> int:
    """Return the step at which a run with these batches would be in this place of the training.

    It differs from `global_step` in a run that is resumed with another number of batches an epoch.
    Ask when training starts.
    """
    loop, unit = trainer.fit_loop, trainer.accumulate_grad_batches
    whole = -(-int(loop.max_batches) // unit)
    epochs: Any = loop.epoch_progress.current
    batches = (
        0 if epochs.ready == epochs.processed else loop.epoch_loop.batch_progress.current.ready
    )
    within = whole if batches == loop.max_batches else batches // unit  # the last batch steps
    return epochs.processed * whole + within


def logs_this_step(trainer: Trainer) -> bool:
    """Whether Lightning writes the metrics of this step to the loggers; ask at a batch's end."""
    return trainer._logger_connector.should_update_logs


def log_step(trainer: Trainer) -> None:
    """Write the metrics of this step now: a run that stops here would not come to it."""
    trainer._logger_connector.update_train_step_metrics()


def report_once(trainer: Trainer) -> None:
    """Report the metrics of a validation or test once, not for each of its loaders.

    Call it in the hook at the end of the epoch. `trainer.test` then returns one dict.
    """
    loop = trainer._evaluation_loop
    del loop._logged_outputs[1:]


def listen_with(trainer: Trainer, listen: Callable[[], None]) -> None:
    """Call `listen` once, right after Lightning installs its handlers of signals for this fit.

    The next hook comes after the data loaders are made. Until then SIGTERM would go to Lightning,
    which ends the run after a step without saving it. Handlers that `listen` installs are removed
    when the fit ends, as Lightning's own are.
    """
    connector: Any = trainer._signal_connector

    def register() -> None:
        del connector.register_signal_handlers  # the method again: a test has no such handlers
        connector.register_signal_handlers()
        listen()

    connector.register_signal_handlers = register


# Gradients ----------------------------------------------------------------------------------------


def unscale(trainer: Trainer, optimizer: Optimizer) -> None:
    """Unscale the gradients of "16-mixed" if that is left to the step of a fused optimiser.

    Call it once before the step, which then leaves them as they are. Lightning has unscaled those
    of other optimisers before its hooks.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
        scaler.unscale_(optimizer)


# Checkpoints --------------------------------------------------------------------------------------


def plan_validation(checkpoint: dict[str, Any], due: bool) -> None:
    """Set whether a run that continues from `checkpoint` validates before it trains on.

    Lightning decides by the progress of its validation loop: in the first batch, the validation
    starts again; in no batch, it is over.
    """
    counts = {"ready": int(due), "started": int(due), "processed": 0, "completed": 0}
    checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"] = {
        "total": counts,
        "current": dict(counts),
        "is_last_batch": False,
    }


def loader_state(checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """Return the state of the training loader in `checkpoint`, or None if it keeps none."""
    states = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader")
    return states[0] if states else None


def is_epoch_complete(checkpoint: dict[str, Any]) -> bool:
    """Whether `checkpoint` was written after the last training batch of an epoch."""
    return checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]


def move_to_batch(checkpoint: dict[str, Any], batch: int, state: dict[str, Any]) -> None:
    """Make a run that continues from `checkpoint` begin at another batch of the epoch.

    Args:
        checkpoint: edited in place.
        batch: training batches of the epoch that count as done.
        state: state of the training loader, for its `load_state_dict`.
    """
    loops = checkpoint["loops"]["fit_loop"]
    progress = loops["epoch_loop.batch_progress"]
    moved = batch - progress["current"]["processed"]
    progress["current"] = {name: n + moved for name, n in progress["current"].items()}
    loops["state_dict"]["combined_loader"][0] = state


def move_best_files(checkpoint: dict[str, Any], folder: Path) -> None:
    """Let `ModelCheckpoint` find its best files in `folder`, where the run was moved to.

    It restores the best score only if its folder is the one in the checkpoint.
    """
    for state in checkpoint["callbacks"].values():
        earlier = state.get("dirpath")
        if earlier is None:
            continue
        for name, value in state.items():
            if isinstance(value, str):
                state[name] = value.replace(earlier, str(folder))
        best = state.get("best_k_models", {})
        state["best_k_models"] = {k.replace(earlier, str(folder)): v for k, v in best.items()}


# metrics.csv --------------------------------------------------------------------------------------


class KeepingWriter(ExperimentWriter):
    """Lightning's writer of metrics.csv, except that it does not delete an earlier file."""

    def _check_log_dir_exists(self) -> None:
        pass


def use_writer(logger: CSVLogger, make: Callable[[str], ExperimentWriter]) -> None:
    """Let a logger that has no writer yet use `make(log_dir)` instead of Lightning's own kind."""
    if logger._experiment is None:
        logger._experiment = make(logger.log_dir)
