"""Callbacks of training: seeds per step, health of the loss, equal configurations."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from itm.training.lightning_private import loader_state
from itm.utils.log_files import say


class StepSeed(Callback):
    """Seed every training batch from (seed, process, batch number).

    Dropout and drawn negatives then do not depend on earlier draws: a resumed run draws the same
    ones, whatever validation or data loading drew in between.

    Args:
        seed: seed of the run.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed torch on all devices, the only source of random numbers in training."""
        key = (self.seed, trainer.global_rank, trainer.fit_loop.total_batch_idx)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


class WarmupInEpochs(Callback):
    """Keep the place of a warm-up in epochs when a resumed run has batches of another size.

    The loss counts batches (`steps`, up to `warmup_steps`), and its count is in the checkpoint.
    """

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Convert the count of batches, which Lightning restored before."""
        state, data = loader_state(checkpoint), cast(Any, trainer).datamodule
        size = data.train_sampler().global_batch
        if state is None or state["size"] == size:
            return
        for part in cast(Any, pl_module).objective.modules():
            if getattr(part, "warmup_steps", 0):
                old = int(part.steps)
                part.steps.fill_(round(old * state["size"] / size))
                say(f"resumed at batch {int(part.steps)} of the warm-up, was {old}")


class EarlyStopping(pl.callbacks.EarlyStopping):
    """Lightning's early stopping, whose patience in a resumed run is that of its options.

    The name of the class is the key of its state in checkpoints, so that it stays the same.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count of validations without improvement, but not the patience."""
        super().load_state_dict({**state_dict, "patience": self.patience})
        if self.wait_count < self.patience:  # it had stopped with less patience, and goes on
            self.stopped_epoch = 0
            self.stopping_reason_message = None


class Health(Callback):
    """Stop at a loss that is not finite, and warn once when training has collapsed.

    Collapse means that all scores are equal. With the hardest negatives the loss then stays at the
    margin per anchor, 2 x batch x margin in sum (reported by Faghri et al. 2018 and for many
    systems since). Two signs count: a ranking loss within 2 % of that value for `patience` steps,
    or a validation at chance level after `patience` steps in which the ranking loss did not move.
    Losses are read every `trainer.log_every_n_steps` batches, all at once, because reading waits
    for the device.

    Args:
        patience: steps before training counts as stuck.
    """

    def __init__(self, patience: int = 200):
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        self.patience = patience
        # Step, number of pairs that the terms sum over, terms.
        self._recent: list[tuple[int, int | Tensor, dict[str, Tensor]]] = []
        self._ranking: list[float] = []  # per pair, one a batch, over the last `patience`
        self._at_plateau = 0  # batches in a row
        self._warned = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the terms of the loss, and check them every `log_every_n_steps` batches."""
        if not isinstance(outputs, dict) or "terms" not in outputs:
            return
        self._recent.append((trainer.global_step, outputs["pairs"], outputs["terms"]))
        if len(self._recent) >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
            self._look(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the validation with chance, if the loss does not move."""
        rsum = trainer.callback_metrics.get("val/rsum")
        stuck = len(self._ranking) >= self.patience and np.ptp(self._ranking) < 0.05 * np.mean(
            self._ranking
        )
        if rsum is None or not stuck:
            return
        split = trainer.datamodule.val_split  # type: ignore[attr-defined]
        chance = chance_rsum(split.num_images, len(split.captions))
        if rsum < 1.5 * chance:
            self._warn(pl_module, f"val/rsum is {rsum:.1f}, by chance it would be {chance:.1f}")

    def _look(self, matcher: LightningModule) -> None:
        recent, self._recent = self._recent, []
        names = list(recent[0][2])
        rows = [torch.stack([terms[name].float() for name in names]) for *_, terms in recent]
        values = torch.stack(rows).cpu().numpy()  # (batches, terms)
        for (step, _, _), row in zip(recent, values, strict=True):
            bad = [f"{name}={x}" for name, x in zip(names, row, strict=True) if not np.isfinite(x)]
            if bad:
                raise ValueError(
                    f"the loss is not finite at step {step}: {', '.join(bad)}; lower optimizer.lr, "
                    "set trainer.precision=32-true, or look for NaN and huge values in the features"
                )
        ranking = values[:, [name.startswith("ranking") for name in names]].sum(1)
        ranking /= [float(pairs) for _, pairs, _ in recent]
        self._ranking = [*self._ranking, *ranking][-self.patience :]
        flat = plateau(self._loss(matcher)) if "ranking" in names else None
        if flat is not None:
            near = np.abs(ranking - flat) < 0.02 * flat
            self._at_plateau = self._at_plateau + len(near) if near.all() else 0
        if self._at_plateau >= self.patience:
            self._warn(matcher, f"the ranking loss stays at {ranking[-1]:.4g} per pair")

    def _warn(self, matcher: LightningModule, sign: str) -> None:
        if not self._warned:
            loss = self._loss(matcher)
            hinge = None if loss is None else loss.ranked.hinge()
            warms_up = hinge is not None and hinge.warmup_steps is not None
            first = "start with all negatives (loss.warmup_steps=400, or loss.negatives=all), or "
            text = (
                f"training seems to have collapsed to equal scores: {sign}; "
                f"{first if warms_up else ''}lower optimizer.lr"
            )
            rank_zero_warn(text)
        self._warned = True

    @staticmethod
    def _loss(matcher: Any) -> Any:
        """Return the `itm.losses.Loss` of a matcher, or None."""
        return None if matcher.loss is None else matcher.objective


def plateau(loss: Any) -> float | None:
    """Compute the ranking loss of equal scores, per pair.

    With one negative, or a mean of negatives, each of the two anchors of a pair costs the margin:
    2 x margin per pair in a sum, the margin itself in a mean.

    Args:
        loss: an `itm.losses.Loss`, or None.

    Returns:
        None for a loss without such a plateau.
    """
    hinge = None if loss is None else loss.ranked.hinge()
    if hinge is None or hinge.negatives not in ("hardest", "top") or not hinge.margin:
        return None
    return 2 * hinge.margin if hinge.reduction == "sum" else hinge.margin


def chance_rsum(images: int, captions: int) -> float:
    """Compute the expected rsum of random scores, for equally many captions per image."""
    own = captions / images
    i2t = [1 - (1 - min(k / captions, 1)) ** own for k in (1, 5, 10)]
    t2i = [min(k / images, 1) for k in (1, 5, 10)]
    return 100 * sum(i2t + t2i)


class SameConfiguration(Callback):
    """Stop before training when processes were given different configurations.

    A sweep that draws values in every process by itself is the usual reason (an unseeded Optuna
    sampler): the processes would train different models and average their gradients.

    Args:
        text: the configuration of this process.
    """

    def __init__(self, text: str):
        self.text = text

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare with the first process.

        Raises:
            ValueError: the configuration of a process differs; all processes raise it.
        """
        if trainer.world_size == 1:
            return
        first = trainer.strategy.broadcast(self.text)
        if trainer.strategy.reduce_boolean_decision(self.text == first):
            return
        mine, others = self.text.splitlines(), first.splitlines()
        lines = [f"{a.strip()} / {b.strip()}" for a, b in zip(mine, others, strict=False) if a != b]
        raise ValueError(
            f"process {trainer.global_rank} and process 0 have different configurations "
            f"({'; '.join(lines[:5]) or 'another process differs, not this one'}): start all with "
            "the same options; a sweep with several processes needs a seed "
            "(hydra.sweeper.sampler.seed)"
        )
