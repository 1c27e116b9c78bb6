"""`python -m itm.train`: train a matcher, keep the best checkpoint, test it, print the results."""

from __future__ import annotations

import math
import time

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from itm.app.config import output_folder
from itm.app.entry import fail_alone, leave_several, quiet, run
from itm.app.processes import silence_others
from itm.app.run_folder import claim, use_folder
from itm.app.signals import Stopped, usual_signals
from itm.app.sweep_summary import write_failure
from itm.training.starting_point import find_checkpoint
from itm.utils.errors import InUseError, TakenError
from itm.utils.log_files import warnings_logged


def command(cfg: DictConfig) -> float:
    """Train, and test the best checkpoint; write everything to Hydra's output folder.

    Returns:
        The best `val/rsum`, for sweepers.
    """
    # Late, because they load Lightning, and reading options should not wait for it.
    import pytorch_lightning as pl

    from itm.app.ranges import check_ranges
    from itm.app.resumed_run import check_trained, read_resumed
    from itm.app.training_run import begin_run, build_training, finish_run, tell_start
    from itm.runs.training_results import training_results
    from itm.training.checkpoint_files import check_length
    from itm.training.resume import earlier_seconds

    quiet()  # again, because processes of sweep=joblib begin here
    silence_others()
    out, typed = output_folder(), list(HydraConfig.get().overrides.task)
    claim(out, cfg.resume, typed)
    check_ranges(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    checkpoint = find_checkpoint(cfg.resume, out)
    resumed = read_resumed(checkpoint, typed)
    training = build_training(cfg, out, typed)
    data, trainer, matcher, _ = training
    if checkpoint is not None:
        check_length(checkpoint, trainer.max_epochs, trainer.max_steps)
    record = begin_run(training, out, cfg, typed, [*resumed.earlier, *resumed.changes])
    if trainer.is_global_zero:
        tell_start(training, out)
    with usual_signals():  # for `itm.training.resume`, which saves before it stops
        began = time.time()
        trainer.fit(matcher, datamodule=data, ckpt_path=checkpoint)
        check_trained(trainer, resumed)
        seconds = time.time() - began + earlier_seconds(trainer)
        results = training_results(trainer, matcher, seconds, out)
        results = finish_run(training, record, results, out, cfg.test)
    return results.get("val/rsum", math.nan)  # a run may have no validation


def run_job(cfg: DictConfig) -> float:
    """Run the command; record the failure of a job in a sweep, so that the other jobs run."""
    try:
        with warnings_logged():
            return command(cfg)
    except (Exception, SystemExit) as error:
        if _is_signal(error):
            raise  # which ends a sweep, too, and keeps the exit code of each process
        if HydraConfig.get().mode != RunMode.MULTIRUN or isinstance(error, TakenError | InUseError):
            fail_alone(error)
            raise
        write_failure(output_folder(), error)
        leave_several()
        return 0.0  # the other jobs of the sweep run


def _is_signal(error: BaseException) -> bool:
    """Tell whether a signal ended the training; Lightning turns Ctrl-C into an exit."""
    from pytorch_lightning.utilities.exceptions import SIGTERMException  # late, as above

    from itm.training.resume import Interrupted

    exits = isinstance(error, SystemExit)
    ends = isinstance(error, Stopped | Interrupted | SIGTERMException)
    return ends or (exits and isinstance(error.__context__, KeyboardInterrupt))


def main() -> None:
    """Console entry point."""
    run("train", run_job, use_folder)


if __name__ == "__main__":
    main()
