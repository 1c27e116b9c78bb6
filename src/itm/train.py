"""`python -m itm.train`: train, validate, keep the best, test it, print the results."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from itm.app.arguments import resume_arguments
from itm.app.build import build_data, build_matcher
from itm.app.config import CONF, instantiate
from itm.app.entry import fail, run
from itm.checkpoints.initialise import start_from
from itm.utils.distributed import rank_and_size


def train(cfg: DictConfig) -> float:
    """One training run; everything is written under Hydra's output folder.

    Returns:
        The best `val/rsum`, for sweepers.
    """
    import pytorch_lightning as pl

    from itm.runs.record import environment, split_facts, write_ranks
    from itm.runs.tables import result_table
    from itm.training.resume import find_checkpoint
    from itm.utils.files import write_text

    out = Path(HydraConfig.get().runtime.output_dir)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    if cfg.word_vectors is not None and cfg.init is not None:
        raise ValueError(f"init={cfg.init} brings its own word vectors: leave word_vectors out")
    checkpoint = find_checkpoint(cfg.resume, out)
    data = build_data(cfg)
    matcher = build_matcher(cfg, data)
    if cfg.init is not None:
        start_from(matcher, cfg.init)
    matcher.chunk_size = cfg.chunk_size
    if cfg.compile:
        matcher.compile()
    trainer = build_trainer(cfg)
    overrides = list(HydraConfig.get().overrides.task)
    command = shlex.join(["python", "-m", "itm.train", *overrides])
    record = {"command": command, "seed": cfg.seed, **environment()}
    if trainer.is_global_zero:
        # Read by resume=; Hydra's own record is rewritten by every attempt, and not at once.
        write_text(out / "run.json", json.dumps({**record, "overrides": overrides}, indent=1))
    print(f"{type(matcher).__name__}: {count(matcher):.2f} M parameters\n{data.describe()}\n{out}")
    began = time.time()
    trainer.fit(matcher, datamodule=data, ckpt_path=checkpoint)
    seconds = time.time() - began
    best: Any = trainer.checkpoint_callback
    results: dict[str, Any] = {
        "val/rsum": float(best.best_model_score) if best.best_model_score is not None else 0.0,
        "parameters_m": count(matcher),
        "epochs": trainer.current_epoch,
        "seconds": seconds,
    }
    if cfg.test and not trainer.interrupted:
        path = best.best_model_path or None  # None: training ended before its first validation
        results |= trainer.test(matcher, data, ckpt_path=path, verbose=False)[0]
        if trainer.is_global_zero and matcher.ranks is not None:
            write_ranks(out / "ranks.npz", *matcher.ranks, data.test_split.caption_image)
    split = data.test_split if "test/rsum" in results else data.val_split
    record |= split_facts(split, split.protocol)
    if trainer.is_global_zero:
        write_text(out / "results.json", json.dumps({**results, **record}, indent=1))
        print(result_table(results, f"{cfg_name(cfg)}"))
        print(f"best checkpoint: {best.best_model_path}")
    return results["val/rsum"]


def cfg_name(cfg: DictConfig) -> str:
    """The choices of a run, such as "vsrn triplet scenes"."""
    choices = HydraConfig.get().runtime.choices
    return " ".join(str(choices[group]) for group in ("model", "loss", "data"))


def count(matcher: Any) -> float:
    """Millions of parameters."""
    return sum(p.numel() for p in matcher.parameters()) / 1e6


def build_trainer(cfg: DictConfig) -> Any:
    """The Lightning trainer with its callbacks and loggers."""
    import torch

    from itm.training.callbacks import SameConfiguration

    precision = cfg.trainer.precision
    if precision == "auto":
        bf16 = cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
        precision = "bf16-mixed" if bf16 and torch.cuda.is_bf16_supported() else "32-true"
    return instantiate(
        cfg.trainer,
        precision=precision,
        callbacks=[
            *instantiate(cfg.callbacks).values(),
            SameConfiguration(OmegaConf.to_yaml(cfg)),
        ],
        logger=list(instantiate(cfg.logger).values()),
    )


@hydra.main(version_base="1.3", config_path=CONF, config_name="train")
def _main(cfg: DictConfig) -> float:
    try:
        return train(cfg)
    except Exception as error:
        rank, processes = rank_and_size()
        if processes == 1:
            raise
        # Not to go on with the next job of a sweep while other processes wait in this one.
        hint = "if it lost its connection or timed out, another one failed first"
        print(f"process {rank} of {processes} ends; {hint}", file=sys.stderr)
        fail(error)


def main() -> None:
    """Console entry point."""
    sys.argv[1:] = resume_arguments(sys.argv[1:])
    run(_main)


if __name__ == "__main__":
    main()
