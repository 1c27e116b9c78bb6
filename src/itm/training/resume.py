"""`last.ckpt`: a run that was stopped at any moment continues as if it had not been stopped."""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, GradientAccumulationScheduler
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from itm.training.lightning_private import (
    accumulates,
    ends_epoch,
    is_epoch_complete,
    listen_with,
    loader_state,
    log_step,
    logs_this_step,
    move_best_files,
    move_to_batch,
    plan_validation,
    validates_next,
)
from itm.training.restored_optimiser import apply_options
from itm.utils.log_files import log

# Ctrl-C, a scheduler's end of job, a closed terminal, SLURM's warning.
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


class Interrupted(SystemExit):
    """Training stopped at a signal after saving `last.ckpt`; the exit code is 128 + signal."""


class LastCheckpoint(Checkpoint):
    """Write `last.ckpt` while training and stop cleanly at signals.

    The file is written every few minutes or optimiser steps, before and after each validation, at
    `max_steps`, and when Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 asks to stop. Training stops after the
    current step; a validation is aborted; a second Ctrl-C stops at once. Several processes
    exchange at every tenth step whether to stop or to write. A run that continues from the file
    computes exactly what it would have computed without the stop: Lightning restores weights and
    optimiser, `itm.data.sampler.PairLoader` its place, and `itm.training.callbacks.StepSeed` the
    seeds.

    Args:
        dirpath: folder of `last.ckpt`; its parent is the run folder.
        every_n_train_steps: optimiser steps between two writes; None = not by steps.
        minutes: minutes between two writes; None = not by time. With both options, the earlier one
            counts.
    """

    def __init__(
        self,
        dirpath: str | Path,
        every_n_train_steps: int | None = None,
        minutes: float | None = 5.0,
    ):
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise ValueError(f"every_n_train_steps must be at least 1, got {every_n_train_steps}")
        if minutes is not None and minutes <= 0:
            raise ValueError(f"minutes must be above 0, got {minutes}")
        self.path = Path(dirpath) / "last.ckpt"
        self.every_n_train_steps = every_n_train_steps
        self.minutes = minutes
        self._written = time.monotonic()
        self._signal = 0  # the signal that asked to stop
        self._stop_asked = self._write_due = False  # in any process, when they exchanged it last
        self._saved = 0  # optimiser steps in last.ckpt
        self._validation_follows = False  # in the checkpoint being written
        self._can_leave = False  # last.ckpt holds everything
        self._listener = 0  # the process that handles signals; loader workers inherit handlers
        self._said = ""  # how to continue
        self.earlier_seconds = 0.0  # of training before the run was resumed
        self._began = time.monotonic()

    # When ------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Arrange to listen to signals; Lightning restores earlier handlers after training."""
        if stage == "fit":
            self._began = time.monotonic()
            listen_with(trainer, partial(self._listen, trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the options of a resumed run, and remove what a killed write left."""
        if trainer.ckpt_path is not None:
            apply_options(trainer, pl_module)
            for changing in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(changing, GradientAccumulationScheduler):  # at an epoch's start only
                    trainer.accumulate_grad_batches = changing.get_accumulate_grad_batches(
                        trainer.current_epoch
                    )
        for stopping in trainer.early_stopping_callbacks:
            # As early stopping decided before; a patience of 0 waits for a first validation, too.
            trainer.should_stop |= stopping.wait_count >= max(1, stopping.patience)
        if trainer.is_global_zero:
            for file in self.path.parent.glob("*.unfinished"):  # left by a write that was killed
                file.unlink()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when it is time to, and stop if asked to."""
        step = trainer.global_step
        if accumulates(trainer):
            return  # no checkpoint holds gradients
        if trainer.world_size == 1 or step % 10 == 5:
            self._stop_asked = self._in_any(trainer, bool(self._signal))
            self._write_due = self._in_any(trainer, self._is_late())
        if ends_epoch(trainer) or validates_next(trainer):
            return  # Lightning, resumed here, would leave out the validation that follows
        if step == trainer.max_steps:
            return self._save(trainer)  # the run ends here, within an epoch
        if logs_this_step(trainer) and trainer.log_every_n_steps > 1:  # type: ignore[attr-defined]
            return  # nor would it log this step; the next step will do
        if self._stop_asked:
            log_step(trainer)
        if self._write_due or self._stop_asked or self._has_done_enough(step):
            self._save(trainer)
        if self._stop_asked:
            self._stop(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before a validation, which may be long; a run resumed here starts with it."""
        last = trainer.global_step == trainer.max_steps  # Lightning, resumed here, does nothing
        if self._is_between_steps(trainer) and not last:
            self._validation_follows = True
            self._save(trainer)
            self._validation_follows = False
            self._can_leave = trainer.world_size == 1
            if self._signal and self._can_leave:
                self._stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the best score after a validation within an epoch."""
        self._can_leave = False
        if self._is_between_steps(trainer) and not ends_epoch(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the complete epoch, best score included."""
        # An epoch that `max_steps` cut was saved before; other ones Lightning would count twice.
        if trainer.max_steps in (-1, trainer.global_step) and ends_epoch(trainer):
            self._save(trainer)
        if self._in_any(trainer, bool(self._signal)):
            self._stop(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if a signal arrived when no step was left to train."""
        if self._signal and trainer.world_size == 1:
            self._stop(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Say how to continue, whatever ended the run, and write it to train.log."""
        if isinstance(exception, SIGTERMException):  # in a test, which Lightning breaks off itself
            exception.code = 128 + signal.SIGTERM  # it would be 0, as after a complete run
        if not trainer.is_global_zero:
            return
        if self._saved and not isinstance(exception, Interrupted):
            self._say(f"the run ended at step {trainer.global_step}, step {self._saved} is saved")
        if self._said:
            log(self._said)  # here, because the handler of a signal must not write to files

    # How -------------------------------------------------------------------------------------

    def _listen(self, trainer: Trainer) -> None:
        self._saved, self._written = trainer.global_step, time.monotonic()
        if threading.current_thread() is not threading.main_thread():
            return
        self._listener, self._signal = os.getpid(), 0
        for name in SIGNALS:
            number = getattr(signal, name, None)
            if number is None or name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN:
                continue  # unknown on this system, or ignored by nohup
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        if os.getpid() != self._listener:
            return
        if number == signal.SIGINT == self._signal:
            raise KeyboardInterrupt
        self._signal = number
        if self._can_leave:
            self._stop(None)
        os.write(2, b"\nstopping after this step\n")

    @staticmethod
    def _is_between_steps(trainer: Trainer) -> bool:
        """Whether a validation during training runs now, with no gradients accumulated."""
        training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        return training and not accumulates(trainer)

    @staticmethod
    def _in_any(trainer: Trainer, flag: bool) -> bool:
        """Whether a flag is set in any process; all get the same answer."""
        if trainer.world_size == 1:
            return flag
        return trainer.strategy.reduce_boolean_decision(flag, all=False)

    def _is_late(self) -> bool:
        """Whether the last write is too long ago."""
        return self.minutes is not None and time.monotonic() - self._written >= 60 * self.minutes

    def _has_done_enough(self, step: int) -> bool:
        return self.every_n_train_steps is not None and (
            step - self._saved >= self.every_n_train_steps
        )

    def _stop(self, trainer: Trainer | None) -> None:
        number = signal.Signals(self._signal or signal.SIGTERM)
        if trainer is not None and not trainer.is_global_zero:
            raise Interrupted(0)  # Lightning kills all processes when one of them fails
        self._say(f"stopped by {number.name}, step {self._saved} is saved")
        raise Interrupted(128 + number)

    def _say(self, what: str) -> None:
        folder = self.path.parent.parent
        command = f"python -m itm.train {shlex.quote(f'resume={folder}')}"
        self._said = f"{what}; continue with: {command}"
        os.write(2, f"\n{self._said}\n".encode())  # a handler of signals must not print()

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # which keeps nothing
            return
        step = trainer.global_step
        if not all(bool(p.isfinite().all()) for p in trainer.lightning_module.parameters()):
            raise ValueError(
                f"weights are not finite any more after step {step}; {self.path} was left at step "
                f"{self._saved}: lower optimizer.lr, set trainer.precision=32-true, or look for "
                "NaN and huge values in the features"
            )
        for logger in trainer.loggers:
            logger.save()  # first, so that no metric of a step in the checkpoint can be missing
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved, self._written, self._write_due = step, time.monotonic(), False

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds of training so far."""
        return {"seconds": self.earlier_seconds + time.monotonic() - self._began}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the seconds of the attempts before; older checkpoints have none."""
        self.earlier_seconds = state_dict.get("seconds", 0.0)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Record whether a validation must run before training continues."""
        plan_validation(checkpoint, due=self._validation_follows)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adapt a checkpoint to a moved run folder and to another number of processes."""
        here = self.path.parent.resolve()
        if Path(str(trainer.ckpt_path)).parent.resolve() == here:  # else: another run's scores
            move_best_files(checkpoint, here)
        if trainer.state.fn == TrainerFn.FITTING:
            self._adapt_place(trainer, checkpoint)

    @staticmethod
    def _adapt_place(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        """Continue at about the same caption with another batch size or number of processes.

        The place in the epoch is rounded down to whole steps; epoch and step are kept.
        """
        state = loader_state(checkpoint)
        if state is None:
            return
        sampler = trainer.datamodule.train_sampler()  # type: ignore[attr-defined]
        if state["size"] == sampler.global_batch:
            return
        if is_epoch_complete(checkpoint):
            batch = len(sampler)
        else:
            unit = trainer.accumulate_grad_batches
            batch = state["batch"] * state["size"] // sampler.global_batch // unit * unit
            batch = max(unit, min(batch, len(sampler) - 1))
        move_to_batch(checkpoint, batch, {**state, "batch": batch, "size": sampler.global_batch})


def earlier_seconds(trainer: Any) -> float:
    """Return the seconds of training before a run was resumed, up to the checkpoint."""
    return sum(c.earlier_seconds for c in trainer.callbacks if isinstance(c, LastCheckpoint))
