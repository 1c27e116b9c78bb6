"""`last.ckpt`: a run that ends at any moment goes on from it as if it had never ended."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from itm.utils.archive import damage

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")  # Ctrl-C, a scheduler's end of job, SLURM's warning


def find_checkpoint(resume: str | bool | None, out: Path) -> str | None:
    """The checkpoint to continue from: of a run folder `last.ckpt`, or `best.ckpt` if it is broken.

    Args:
        resume: a run folder, a checkpoint, True for this run's own folder, or None.
        out: this run's own folder.

    Raises:
        FileNotFoundError: `resume` names a place without a checkpoint.
        ValueError: all checkpoints there are damaged.
    """
    if not resume:
        return None
    path = out if resume is True else Path(resume)
    names = [path / "checkpoints" / name for name in ("last.ckpt", "best.ckpt")]
    files = [file for file in ([path] if path.suffix == ".ckpt" else names) if file.is_file()]
    if not files and resume is True:
        return None  # the first attempt of a job that may be restarted
    if not files:
        raise FileNotFoundError(
            f"resume={resume}: no checkpoint at {path if path.suffix == '.ckpt' else names[0]}"
        )
    damages: list[str] = []
    for file in files:
        what = damage(file)
        if what is None:
            if damages:
                print(f"{'; '.join(damages)}: continuing from {file}")
            return str(file)
        damages.append(f"cannot read {file}: {what}")
    raise ValueError(f"resume={resume}: {'; '.join(damages)}; start again, or from weights (init=)")


class Interrupted(SystemExit):
    """A signal ended training, and `last.ckpt` holds all of it; exit code 128 + signal."""


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` while training and stops cleanly at signals.

    It is written every `every_n_train_steps` optimiser steps, before and after each validation, and
    when Ctrl-C, SIGTERM or SIGUSR1 asks to stop: after the step (a validation is broken off). A
    second Ctrl-C does not wait. Several processes agree on stopping at every tenth step. With the
    place of `itm.data.sampler.PairLoader`, the seeds of `itm.training.callbacks.StepSeed` and what
    Lightning restores, a run that continues from it computes what it would have computed
    uninterrupted.

    Args:
        dirpath: folder of `last.ckpt`; its parent is the run folder.
        every_n_train_steps: optimiser steps between two writes.
    """

    def __init__(self, dirpath: str | Path, every_n_train_steps: int = 500):
        if every_n_train_steps < 1:
            raise ValueError(f"every_n_train_steps={every_n_train_steps}: expected at least 1")
        self.path = Path(dirpath) / "last.ckpt"
        self.every_n_train_steps = every_n_train_steps
        self._signal = 0  # the one that asked to stop
        self._saved = 0  # optimiser steps in last.ckpt
        self._validation_follows = False  # in the checkpoint being written
        self._can_leave = False  # last.ckpt holds everything
        self._listener = 0  # the process that handles signals; loader workers inherit handlers

    # When ------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to signals; Lightning puts the earlier handlers back when training ends."""
        self._saved = trainer.global_step
        for stopping in trainer.early_stopping_callbacks:
            trainer.should_stop |= stopping.wait_count >= stopping.patience  # as it had decided
        if trainer.is_global_zero:
            for file in self.path.parent.glob("*.unfinished"):  # of a write that was killed
                file.unlink()
        if threading.current_thread() is threading.main_thread():
            self._listener = os.getpid()
            for name in SIGNALS:
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), self._on_signal)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when it is time, and stop when asked to."""
        step, loop = trainer.global_step, trainer.fit_loop.epoch_loop
        if trainer.fit_loop._should_accumulate():
            return  # no checkpoint holds gradients
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None
        if loop.batch_progress.is_last_batch or loop._should_check_val_fx(fetcher):
            return  # Lightning, resumed here, would leave out the validation that follows
        if trainer._logger_connector.should_update_logs and trainer.log_every_n_steps > 1:  # type: ignore[attr-defined]
            return  # nor would it log this step; the next one is as good
        stop = self._asked_to_stop(trainer, exchange=step % 10 == 5)
        if stop or step - self._saved >= self.every_n_train_steps:
            self._save(trainer)
        if stop:
            self._stop(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before a validation, which may be long; a run resumed here begins with it."""
        last = (
            trainer.global_step == trainer.max_steps
        )  # where Lightning, resumed, would do nothing
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
        within_epoch = not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if self._is_between_steps(trainer) and within_epoch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the complete epoch, best score included."""
        if trainer.max_steps in (-1, trainer.global_step):  # else Lightning counts the epoch twice
            self._save(trainer)
        if self._asked_to_stop(trainer):
            self._stop(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Whatever ended the run, say how to go on."""
        if trainer.is_global_zero and self._saved and not isinstance(exception, Interrupted):
            self._say(f"the run ended at step {trainer.global_step}, step {self._saved} is saved")

    # How -------------------------------------------------------------------------------------

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
        """Whether this validation is one of training, and no gradients are being accumulated."""
        training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        return training and not trainer.fit_loop._should_accumulate()

    def _asked_to_stop(self, trainer: Trainer, exchange: bool = True) -> bool:
        """Whether any process was; all get the same answer, at steps where all `exchange` it."""
        if trainer.world_size == 1:
            return bool(self._signal)
        return exchange and trainer.strategy.reduce_boolean_decision(bool(self._signal), all=False)

    def _stop(self, trainer: Trainer | None) -> None:
        number = signal.Signals(self._signal or signal.SIGTERM)
        if trainer is not None and not trainer.is_global_zero:
            raise Interrupted(0)  # Lightning kills all processes when one of them fails
        self._say(f"stopped by {number.name}, step {self._saved} is saved")
        raise Interrupted(128 + number)

    def _say(self, what: str) -> None:
        folder = self.path.parent.parent
        text = f"\n{what}; continue with: python -m itm.train resume={folder}\n"
        os.write(2, text.encode())  # print() must not be called in the handler of a signal

    def _save(self, trainer: Trainer) -> None:
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
        self._saved = step

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say in Lightning's terms whether a validation must be run before training goes on."""
        one = int(self._validation_follows)  # "in its first batch", of which nothing is kept
        counts = {"ready": one, "started": one, "processed": 0, "completed": 0}
        checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"] = {
            "total": counts,
            "current": dict(counts),
            "is_last_batch": False,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adapt what is restored to a run folder that was moved and to other processes."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._follow_move(trainer, checkpoint)
            self._adapt_place(trainer, checkpoint["loops"]["fit_loop"])

    def _follow_move(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        """The best score counts on when the run folder has another path than when it was saved."""
        here = self.path.parent.resolve()
        if Path(str(trainer.ckpt_path)).parent.resolve() != here:
            return  # another run's checkpoint: this run has a best score of its own
        for state in checkpoint["callbacks"].values():
            there = state.get("dirpath")
            if there is None:
                continue
            for name, value in state.items():
                if isinstance(value, str):
                    state[name] = value.replace(there, str(here))
            best = state.get("best_k_models", {})
            state["best_k_models"] = {k.replace(there, str(here)): v for k, v in best.items()}

    def _adapt_place(self, trainer: Trainer, loops: dict[str, Any]) -> None:
        """With another batch size or number of processes, go on at about the same caption.

        The place in the epoch is rounded down to whole steps; epoch and step are kept.
        """
        states = loops["state_dict"].get("combined_loader")
        if not states:
            return
        sampler = trainer.datamodule.train_sampler()  # type: ignore[attr-defined]
        state = states[0]
        if state["size"] == sampler.global_batch:
            return
        progress, unit = loops["epoch_loop.batch_progress"], trainer.accumulate_grad_batches
        if progress["is_last_batch"]:
            batch = len(sampler)
        else:
            batch = state["batch"] * state["size"] // sampler.global_batch // unit * unit
            batch = max(unit, min(batch, len(sampler) - 1))
        moved = batch - progress["current"]["processed"]
        progress["current"] = {name: n + moved for name, n in progress["current"].items()}
        states[0] = {**state, "batch": batch, "size": sampler.global_batch}
