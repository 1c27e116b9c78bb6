"""`python -m itm.train`: train, validate, keep the best, test it, print the results."""

from __future__ import annotations

import shlex
import sys
import time
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from itm.app.arguments import resume_arguments
from itm.app.config import CONF, output_folder, run_name
from itm.app.entry import fail_alone, run


def command(cfg: DictConfig) -> float:
    """Train, and test the best checkpoint; everything is written under Hydra's output folder.

    Returns:
        The best `val/rsum`, for sweepers.
    """
    # Late, since they bring Lightning, which `--help` need not wait for.
    import pytorch_lightning as pl

    from itm.app.build import build_data, build_matcher
    from itm.app.trainer import build_trainer
    from itm.checkpoints.initialise import start_from
    from itm.runs.record import (
        environment,
        parameters_m,
        split_facts,
        training_results,
        write_json,
        write_ranks,
    )
    from itm.runs.tables import result_table
    from itm.training.resume import find_checkpoint

    out = output_folder()
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
    typed = shlex.join(["python", "-m", "itm.train", *overrides])
    record = {"command": typed, "seed": cfg.seed, **environment()}
    if trainer.is_global_zero:
        # Read by resume=; Hydra's own record is rewritten by every attempt, and not at once.
        write_json(out / "run.json", {**record, "overrides": overrides})
    size = parameters_m(matcher)
    print(f"{type(matcher).__name__}: {size:.2f} M parameters\n{data.describe()}\n{out}")
    began = time.time()
    trainer.fit(matcher, datamodule=data, ckpt_path=checkpoint)
    results = training_results(trainer, matcher, time.time() - began)
    best: Any = trainer.checkpoint_callback
    if cfg.test and not trainer.interrupted:
        path = best.best_model_path or None  # None: training ended before its first validation
        results |= trainer.test(matcher, data, ckpt_path=path, verbose=False)[0]
        if trainer.is_global_zero and matcher.ranks is not None:
            write_ranks(out / "ranks.npz", *matcher.ranks, data.test_split.caption_image)
    split = data.test_split if "test/rsum" in results else data.val_split
    if trainer.is_global_zero:
        facts = split_facts(split, split.protocol)
        write_json(out / "results.json", {**results, **record, **facts})
        print(result_table(results, run_name()))
        print(f"best checkpoint: {best.best_model_path}")
    return results["val/rsum"]


@hydra.main(version_base="1.3", config_path=CONF, config_name="train")
def _main(cfg: DictConfig) -> float:
    try:
        return command(cfg)
    except Exception as error:
        fail_alone(error)
        raise


def main() -> None:
    """Console entry point."""
    sys.argv[1:] = resume_arguments(sys.argv[1:])
    run(_main)


if __name__ == "__main__":
    main()
