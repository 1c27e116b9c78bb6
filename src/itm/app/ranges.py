"""Check numbers whose owners would complain late, or without the name of the option."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from itm.utils.checks import check_sizes


def check_ranges(cfg: DictConfig) -> None:
    """Check the numbers of seed, batches, trainer, model and loss.

    Raises:
        ValueError: a number is out of its range.
    """
    trainer = cfg.trainer
    for name, value, least in (
        ("seed", cfg.seed, 0),
        ("chunk_size", cfg.chunk_size, 1),
        ("data.workers", cfg.data.get("workers"), 0),
        ("gradient_clip_val", trainer.get("gradient_clip_val"), 0),
        ("trainer.accumulate_grad_batches", trainer.get("accumulate_grad_batches"), 1),
        ("trainer.log_every_n_steps", trainer.get("log_every_n_steps"), 1),
        ("trainer.check_val_every_n_epoch", trainer.get("check_val_every_n_epoch"), 1),
        ("trainer.min_epochs", trainer.get("min_epochs"), 0),
        ("trainer.min_steps", trainer.get("min_steps"), 0),
    ):
        if value is not None and not isinstance(value, int | float):
            hint = "; to change it during training, add the callback GradientAccumulationScheduler"
            raise ValueError(
                f"{name}={value} must be a number"
                + (hint if name == "trainer.accumulate_grad_batches" else "")
            )
        if value is not None and not value >= least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if cfg.seed is not None and cfg.seed >= 2**32:
        raise ValueError(f"seed={cfg.seed} must be below 2**32")
    _check_epochs(trainer)
    _check_interval(trainer.get("val_check_interval"))
    check_sizes(_numbers(cfg.model), "model.")
    check_sizes(_numbers(cfg.loss), "loss.")


def _check_epochs(trainer: DictConfig) -> None:
    epochs = trainer.get("max_epochs")
    if epochs is not None and epochs < -1:
        raise ValueError(f"max_epochs={epochs} must be at least 0, or -1 for no limit")
    time = trainer.get("max_time")
    if isinstance(time, int | float):
        raise ValueError(f"trainer.max_time={time} must be a time, DD:HH:MM:SS")
    steps, fast = (trainer.get(key) for key in ("max_steps", "fast_dev_run"))
    if epochs is None and steps in (None, -1) and time is None and not fast:
        raise ValueError(
            "max_epochs=null needs trainer.max_steps=N or trainer.max_time=DD:HH:MM:SS, because "
            "Lightning would stop after 1000 epochs: give max_epochs=N, or -1 for no limit"
        )


def _check_interval(interval: Any) -> None:
    if isinstance(interval, int | float) and not interval > 0:
        raise ValueError(
            f"trainer.val_check_interval={interval} must be above 0: a number of batches, or a "
            "share of the epoch"
        )


def _numbers(node: Any) -> dict[str, Any]:
    """List the options of a group, without those that refer to others, such as ${size}."""
    plain = OmegaConf.to_container(node) if OmegaConf.is_config(node) else {}
    assert isinstance(plain, dict)
    return {str(k): x for k, x in plain.items() if not OmegaConf.is_interpolation(node, str(k))}
