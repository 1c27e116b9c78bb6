"""`python -m itm.train`: train a matcher, keep the best checkpoint, test it, print the results."""

from __future__ import annotations

import math
import shlex
import time
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from itm.app.config import CONF, output_folder, run_name
from itm.app.entry import fail_alone, quiet, run
from itm.app.replaced import settle
from itm.app.run_folder import use_folder
from itm.app.sweep_summary import write_failure


def command(cfg: DictConfig) -> float:
    """Train, and test the best checkpoint; write everything to Hydra's output folder.

    Returns:
        The best `val/rsum`, for sweepers.
    """
    # Late, because they load Lightning, and reading options should not wait for it.
    import pytorch_lightning as pl

    from itm.app.build import build_data, build_matcher
    from itm.app.checks import check_disk, check_monitors, check_protocol, check_ranges
    from itm.app.loading import apply_loading
    from itm.app.optimisation import check_optimisation, check_used
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
    from itm.runs.sweep import FAILURE
    from itm.runs.tables import result_table
    from itm.training.progress import say
    from itm.training.resume import find_checkpoint

    quiet()  # again, because processes of sweep=joblib begin here
    out = output_folder()
    check_ranges(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    overrides = list(HydraConfig.get().overrides.task)
    check_used(cfg, overrides)
    if cfg.word_vectors is not None and cfg.init is not None:
        raise ValueError(f"init={cfg.init} brings its own word vectors: leave word_vectors out")
    checkpoint = find_checkpoint(cfg.resume, out)
    data = build_data(cfg)
    trainer = build_trainer(cfg)
    loading = apply_loading(data, trainer, overrides)  # before anything reads the data
    matcher = build_matcher(cfg, data)
    # An epoch has at least one row of curves, however short it is.
    trainer.log_every_n_steps = max(1, min(trainer.log_every_n_steps, len(data.train_sampler())))
    if cfg.init is not None:
        start_from(matcher, cfg.init)
    matcher.chunk_size = cfg.chunk_size
    if cfg.compile:
        matcher.compile()
    check_monitors(trainer, matcher)
    check_optimisation(matcher, trainer)
    check_disk(out, matcher)
    if cfg.test:
        check_protocol(data.test_split)
    typed = shlex.join(["python", "-m", "itm.train", *overrides])
    record = {"command": typed, "seed": cfg.seed, **environment()}
    if trainer.is_global_zero:
        (out / FAILURE).unlink(missing_ok=True)  # of an earlier attempt
        # For resume=: every attempt rewrites Hydra's own record, and not atomically.
        write_json(out / "run.json", {**record, "overrides": overrides, "data": data.fingerprint()})
        settle()  # the run begins: what it replaces is deleted
    size = parameters_m(matcher)
    if trainer.is_global_zero:
        say(f"{type(matcher).__name__}: {size:.2f} M parameters\n{data.describe()}\n{out}")
        if loading is not None:
            say(loading)
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
        say(f"{result_table(results, run_name())}\nbest checkpoint: {best.best_model_path}")
    return results.get("val/rsum", math.nan)  # a run may have no validation


@hydra.main(version_base="1.3", config_path=CONF, config_name="train")
def _main(cfg: DictConfig) -> float:
    try:
        return command(cfg)
    except Exception as error:
        fail_alone(error)
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            raise
        write_failure(output_folder(), error)  # the other jobs of the sweep run
        return 0.0


def main() -> None:
    """Console entry point."""
    run(_main, use_folder)


if __name__ == "__main__":
    main()
