"""Show how a run goes: the progress bar, one line per epoch, and the run's log file."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar, Timer
from torch import Tensor

from itm.utils import log_files

T = TypeVar("T")


def say(text: str, trainer: Trainer | None = None) -> None:
    """Print and log a text in the first process, see `itm.utils.log_files.say`.

    Args:
        text: one or several lines.
        trainer: trainer whose progress bar, if any, makes room for the text.
    """
    bar: Any = None if trainer is None else trainer.progress_bar_callback
    if getattr(bar, "is_enabled", False):
        bar.print(text)
        log_files.log(text)
    else:
        log_files.say(text)


def scoring(trainer: Trainer, chunks: Sequence[T]) -> Iterable[T]:
    """Iterate over chunks of images while the progress bar, if it is a `Bar`, counts them."""
    bar = trainer.progress_bar_callback
    return bar.scoring(chunks) if isinstance(bar, Bar) else chunks


class Bar(RichProgressBar):
    """Lightning's progress bar without the logger's version, and with a line for scoring.

    A validation encodes its batches first, which Lightning counts, and then scores all pairs, which
    takes most of the time of a cross-attention model.
    """

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the loss per pair and `val/rsum`."""
        return {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}

    def scoring(self, chunks: Sequence[T]) -> Iterator[T]:
        """Iterate over chunks of images, and show how many are scored."""
        progress = self.progress if self.is_enabled else None
        task = None if progress is None else progress.add_task("Scoring", total=len(chunks))
        for chunk in chunks:
            yield chunk
            if progress is not None and task is not None:
                progress.update(task, advance=1)
                self.refresh()
        if progress is not None and task is not None:
            progress.update(task, visible=False)


class EpochLine(Callback):
    """Print a line after each epoch, at early stopping, and when the best weights are restored.

    An example: `epoch  3/30  loss 2.17   val rsum 287.0 (best)  lr 2e-4  1:12`. The loss is the
    mean over the pairs of the epoch (`itm.matcher.epoch_loss`); several processes report that of
    the first.
    """

    def __init__(self) -> None:
        self._rate: float | Tensor = math.nan
        self._validated = False
        self._before: float | None = None  # the best score when the epoch began
        self._began = 0.0
        self._trains = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record that no batch has been trained on."""
        self._trains = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that nothing was trained, because a resumed run had used up its limit."""
        limited = 0 in (trainer.limit_train_batches, trainer.max_steps, trainer.max_epochs)
        if self._trains or limited or not trainer.is_global_zero:
            return
        why = "the limits of the trainer leave no step"
        if _time_is_over(trainer):
            why = "max_time is over"
        elif trainer.global_step == trainer.max_steps:
            why = f"step {trainer.global_step} is max_steps"
        say(f"no training, because {why}: the weights stay as they are", trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; the epoch in which a run is resumed has no `on_train_epoch_start`."""
        self._before = _best_score(trainer)
        self._began = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of an epoch."""
        self._validated = False
        self._before = _best_score(trainer)
        self._began = time.monotonic()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record that there is a training, and the rate before a scheduler changes it."""
        self._trains = True
        if trainer.optimizers:
            self._rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record that this epoch has a score."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line."""
        if not trainer.is_global_zero:
            return
        last = trainer.max_epochs
        of, width = (f"/{last}", len(str(last))) if last is not None and last > 0 else ("", 1)
        parts = [f"epoch {trainer.current_epoch + 1:{width}}{of}"]
        loss = getattr(getattr(pl_module, "epoch_loss", None), "mean", None)
        if loss is not None:
            parts.append(f"loss {float(loss):<5.3g}")
        rsum = trainer.callback_metrics.get("val/rsum")
        if self._validated and rsum is not None:
            best = self._best_mark(trainer) if self._is_best(trainer) else ""
            parts.append(f"val rsum {float(rsum):5.1f} {best:6}")
        if not math.isnan(rate := float(self._rate)):
            parts.append(f"lr {short(rate)}")
        parts.append(clock(time.monotonic() - self._began))
        say("  ".join(parts), trainer)

    @staticmethod
    def _best_mark(trainer: Trainer) -> str:
        """Write which metric is the best so far, if it is not the one in the line."""
        monitor = getattr(trainer.checkpoint_callback, "monitor", None)
        return "(best)" if monitor == "val/rsum" else f"(best {monitor})"

    def _is_best(self, trainer: Trainer) -> bool:
        """Tell whether the last validation is the best; best.ckpt may be written after this."""
        keeper: Any = trainer.checkpoint_callback
        now = trainer.callback_metrics.get(getattr(keeper, "monitor", None) or "")
        if now is None:
            return False
        sign = -1.0 if keeper.mode == "min" else 1.0
        beaten = self._before is None or sign * float(now) > sign * self._before
        best = _best_score(trainer)  # in this epoch too, if it had several validations
        return beaten and (best is None or sign * float(now) >= sign * best)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that the test uses the weights of the best validation, if they were restored."""
        keeper: Any = trainer.checkpoint_callback
        best = getattr(keeper, "best_model_path", None)
        if best and trainer.ckpt_path == best and trainer.is_global_zero:
            name, score = str(keeper.monitor).replace("/", " "), _best_score(trainer)
            # A run that another run's checkpoint began, and that had no epoch left, has no score.
            value = "" if score is None else f", {score:.1f}"
            say(f"restored the weights of the best {name}{value}", trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say why the training ended before `max_epochs`."""
        if not trainer.is_global_zero:
            return
        for stopping in trainer.early_stopping_callbacks:
            why = stopping.stopping_reason_message  # a threshold, or a value that is not finite
            if stopping.wait_count >= max(1, stopping.patience):
                why = (
                    f"{stopping.monitor} has not improved on {float(stopping.best_score):.1f} in "
                    f"{stopping.wait_count} validations"
                )
            if why and stopping.stopped_epoch + 1 != trainer.max_epochs:
                why = why.removesuffix(" Signaling Trainer to stop.")
                say(f"stopped early after epoch {stopping.stopped_epoch + 1}: {why}", trainer)
        if not self._trains:
            return  # see `on_fit_end`
        if _time_is_over(trainer):
            say(f"stopped after step {trainer.global_step}, because max_time is over", trainer)
        fast = trainer.fast_dev_run  # type: ignore[attr-defined]
        if trainer.global_step == trainer.max_steps and not fast:
            say(f"stopped after step {trainer.global_step}, which is max_steps", trainer)


def _time_is_over(trainer: Trainer) -> bool:
    timers = [c for c in trainer.callbacks if isinstance(c, Timer)]  # type: ignore[attr-defined]
    left = [timer.time_remaining() for timer in timers]
    return any(seconds is not None and seconds <= 0 for seconds in left)


def _best_score(trainer: Trainer) -> float | None:
    """Return the score of best.ckpt, or None without one."""
    score = getattr(trainer.checkpoint_callback, "best_model_score", None)
    return None if score is None else float(score)


def short(value: float) -> str:
    """Format a number in the short form of the command line.

    Examples:
        >>> short(2e-4), short(0.00125), short(0.0)
        ('2e-4', '1.25e-3', '0')
    """
    if value == 0:
        return "0"
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def clock(seconds: float) -> str:
    """Format a duration.

    Examples:
        >>> clock(72), clock(3_672)
        ('1:12', '1:01:12')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
