"""Build the Lightning trainer of a configuration."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from itm.app.config import instantiate, output_folder
from itm.app.trainer_checks import check_device
from itm.utils.checks import check_choice

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "64-true")


def build_trainer(cfg: DictConfig) -> Any:
    """Build the trainer with its callbacks and loggers; precision "auto" is bf16 on new GPUs.

    Raises:
        ValueError: no GPU, an unknown way of clipping, loggers or callbacks where they have no
            effect, or a strategy whose processes end with the training.
    """
    import torch  # late, since reading options need not wait for it

    from itm.training.callbacks import SameConfiguration
    from itm.training.profiler import profiler
    from itm.training.progress import Bar

    check_device(str(cfg.trainer.accelerator))
    clipping = cfg.trainer.get("gradient_clip_algorithm")
    check_choice("trainer.gradient_clip_algorithm", clipping or "norm", ("norm", "value"))
    strategy = str(cfg.trainer.get("strategy"))
    if re.match("ddp_(spawn|fork|notebook)", strategy):
        raise ValueError(
            f"trainer.strategy={strategy} trains in processes that end with the training, so its "
            "results would be lost: use trainer=ddp, which starts the command in every process"
        )
    for name in ("logger", "callbacks"):
        if name in cfg.trainer:
            raise ValueError(
                f"trainer.{name} has no effect: choose {name}=..., or +{name}.NAME=..."
            )

    precision = cfg.trainer.precision
    if not re.fullmatch("auto|(bf16|16)(-mixed|-true)?|(32|64)(-true)?", str(precision)):
        check_choice("trainer.precision", precision, PRECISIONS)
    if precision == "auto":
        gpu = cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
        # Older GPUs, such as V100 and T4, only emulate bfloat16, which is slow.
        bf16 = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16-mixed" if bf16 else "32-true"
    # A file would get one useless last frame of the bar.
    shows = bool(cfg.trainer.get("enable_progress_bar")) and Console().is_terminal
    return instantiate(
        cfg.trainer,
        precision=precision,
        profiler=profiler(cfg.trainer.get("profiler"), output_folder()),
        enable_progress_bar=shows,
        callbacks=[
            *_given(cfg.callbacks),
            SameConfiguration(OmegaConf.to_yaml(cfg)),
            *([Bar()] if shows else []),
        ],
        logger=_given(cfg.logger),
    )


def _given(group: DictConfig) -> list[Any]:
    """Build the objects of a group; null leaves one out, as in callbacks.health=null."""
    return [made for made in instantiate(group).values() if made is not None]
