"""Runs that are stopped and compared with runs that are not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

STEPS, EPOCHS = 30, 3

ARGUMENTS = (
    "--config-dir", "conf", "model=mean", "loss=sam", "trainer=fast", "scheduler.step_size=1",
    f"trainer.max_epochs={EPOCHS}", "callbacks.last.every_n_train_steps=2",
    "trainer.log_every_n_steps=3",
)  # fmt: skip


def checkpoint(run, name="last"):
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)


def assert_same(run, whole):
    """Both ended with bitwise the same weights, optimiser, best score, metrics and results."""
    ours, theirs = checkpoint(run), checkpoint(whole)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        for (path, a), (other, b) in zip(leaves(ours[key]), leaves(theirs[key]), strict=True):
            same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
            assert path == other and same, (key, path, a, b)
    for name in ("wait_count", "best_score", "best_model_score"):
        assert states(ours, name) == states(theirs, name)
    for name in states(ours, "best_model_path"):
        assert Path(name) == (run / "checkpoints/best.ckpt").resolve()
    assert (run / "csv/metrics.csv").read_text() == (whole / "csv/metrics.csv").read_text()
    ours, theirs = (json.loads((x / "results.json").read_text()) for x in (run, whole))
    assert {k: v for k, v in ours.items() if "/" in k} == {
        k: v for k, v in theirs.items() if "/" in k
    }


def signal_at_batch(number, batch):
    from itm.training.callbacks import StepSeed

    hook = StepSeed.on_train_batch_start

    def hook_and_signal(self, trainer, *arguments):
        hook(self, trainer, *arguments)
        if trainer.fit_loop.total_batch_idx == batch:
            os.kill(os.getpid(), number)

    StepSeed.on_train_batch_start = hook_and_signal


def leaves(tree, path=()):
    """(path, value) of everything in nested dicts and lists."""
    if isinstance(tree, dict):
        pairs = tree.items()
    elif isinstance(tree, (list, tuple)):
        pairs = enumerate(tree)
    else:
        return [(path, tree)]
    return [leaf for key, value in pairs for leaf in leaves(value, (*path, key))]


def states(checkpoint, name):
    """What the callbacks of a checkpoint have under a name."""
    return [state[name] for state in checkpoint["callbacks"].values() if name in state]
