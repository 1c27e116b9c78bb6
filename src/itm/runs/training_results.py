"""Summarise a training for results.json and for the table at its end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itm.runs.record import BESIDE, parameters_m
from itm.runs.run_files import read_curves
from itm.training.checkpoint_files import saved_step

if TYPE_CHECKING:
    from torch import nn

    from itm.data.layout import Split
    from itm.metrics.ranking import Ranks

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


def training_results(
    trainer: Any, matcher: nn.Module, seconds: float, folder: Path
) -> dict[str, Any]:
    """Summarise a training that has just ended.

    Args:
        trainer: trainer with a checkpoint callback.
        matcher: the trained matcher.
        seconds: duration of the training, earlier attempts included.
        folder: folder of the run, with its curves.

    Returns:
        The metrics of the validation for which best.ckpt was written, such as `val/rsum` (none if
        there was no validation), `parameters_m`, `epochs`, `seconds` and the time, `ended`.
    """
    return {
        **_best_validation(trainer.checkpoint_callback, read_curves(folder / BESIDE[0])),
        "parameters_m": parameters_m(matcher),
        "epochs": trainer.current_epoch,
        "seconds": seconds,
        "ended": datetime.now(timezone.utc).isoformat(),
    }


def _best_validation(keeper: Any, curves: Curves) -> dict[str, float]:
    """Find the metrics of the validation for which best.ckpt was written."""
    if keeper.best_model_score is None:
        return {}
    score, monitor = float(keeper.best_model_score), str(keeper.monitor)
    alone = {monitor: score} if monitor.startswith("val/") else {}
    if "val/rsum" not in curves:
        return alone  # the run wrote no curves
    step = _last_validation(keeper.best_model_path, curves["val/rsum"][0])
    if monitor in curves and alone:  # the mean of train/loss is in no curve
        steps, values = curves[monitor]
        if not np.isclose(values[steps == step], score).any():  # best.ckpt is not there
            nearest = int(np.argmin(np.abs(values - score)))
            step = int(steps[nearest]) if np.isclose(values[nearest], score) else -1
    found = dict(alone)
    for name, (when, metric) in curves.items():
        at = np.flatnonzero(when == step)
        if name.startswith("val/") and len(at):
            found[name] = float(metric[at[-1]])
    return found


def _last_validation(checkpoint: str, validations: np.ndarray) -> int:
    """Find the step of the last validation before a checkpoint was written, or -1."""
    if not Path(checkpoint).is_file():
        return -1
    before = validations[validations <= saved_step(checkpoint)]
    return int(before[-1]) if len(before) else -1


def ranked_part(ranks: Ranks | None, split: Split) -> tuple[int, bool]:
    """Count the ranked images of a split, and tell whether images or captions were left out."""
    if ranks is None:
        return split.num_images, False
    images, captions = (len(of_queries) for of_queries in ranks)
    return images, (images, captions) != (split.num_images, len(split.captions))
