"""Runs that are killed, stopped, cheated of disk space and moved end where undisturbed ones end.

    python -m pytest -m slow tests/guarantees/test_interruption.py

kills one run over and over, and runs of ten settings after each single write of last.ckpt.
"""

import io
import json
import os
import random
import resource
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from interruption import ARGUMENTS, EPOCHS, STEPS, assert_same, checkpoint, signal_at_batch
from processes import Run

from itm.utils.archive import damage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With an undisturbed run in `whole`: 3 epochs of 10 steps, negatives drawn at random."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "conf/model").mkdir(parents=True)
    (folder / "conf/model/mean.yaml").write_text(
        "_target_: toy.MeanMatcher\nvocab_size: null\nimg_dim: null\nembed_dim: 16\n"
    )
    start(folder, "whole").done()
    return folder


def start(folder, name, *more, before=None):
    """The run of a name, begun or continued."""
    return Run(
        *ARGUMENTS, f"hydra.run.dir={name}", "resume=true", *more, cwd=folder, name=name,
        before=before,
    )  # fmt: skip


def killed_at_random(folder, name, kills, *more):
    """Start a run and kill it, each time at some moment after it wrote one to three checkpoints.

    Not after some time alone: on a slow machine it might never get beyond its next validation.
    """
    last, at = folder / name / "checkpoints/last.ckpt", []
    written = lambda: last.stat().st_mtime_ns if last.exists() else 0  # noqa: E731
    for _ in range(kills):
        run = start(folder, name, *more)
        for _ in range(random.randint(1, 3)):
            before = written()
            while run.running and written() == before:
                time.sleep(0.002)
        time.sleep(random.uniform(0, 0.1))
        if not run.kill():
            break  # it was faster
        at.append(checkpoint(folder / name)["global_step"])
    return at


def test_three_kills(folder):
    assert killed_at_random(
        folder, "killed", 3
    )  # on a fast machine the run may end before the third
    start(folder, "killed").done()
    assert_same(folder / "killed", folder / "whole")
    assert not list((folder / "killed").rglob("*.unfinished"))


# What a process does to itself before it trains ------------------------------------------------


def die_in_a_write(number):
    """SIGKILL with half of a checkpoint written."""
    save, count = torch.save, iter(range(1, 1000))

    def half_a_save(state, file):
        if next(count) == number:
            whole = io.BytesIO()
            save(state, whole)
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(state, file)

    torch.save = half_a_save


def die_after_a_write(number):
    """SIGKILL as soon as last.ckpt is in its place."""
    replace, count = os.replace, iter(range(1, 1000))

    def replace_and_die(source, target):
        replace(source, target)
        if Path(target).name == "last.ckpt" and next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace_and_die


def signal_in_validation(number, epoch):
    from itm.matcher import validation

    score = validation.score_encoded

    def signal_and_score(matcher, *arguments):
        if matcher.trainer.current_epoch == epoch:
            os.kill(os.getpid(), number)
        return score(matcher, *arguments)

    validation.score_encoded = signal_and_score


def small_disk(size):
    """No file can grow beyond some bytes; Python ignores the signal and sees an OSError."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def one_process_of(folder, name, before):
    return start(folder, name, before=before).wait()


# -----------------------------------------------------------------------------------------------


# The sixth write is best.ckpt: last.ckpt at steps 2, 4, 7 and before the validation, best, last.
@pytest.mark.parametrize("number", [3, 6])
def test_a_kill_in_a_write_leaves_the_checkpoint_of_before(folder, number):
    name = f"write{number}"
    assert one_process_of(folder, name, partial(die_in_a_write, number)) == -signal.SIGKILL
    files = {file.name for file in (folder / name / "checkpoints").iterdir()}
    assert any(".ckpt." in file and file.endswith(".unfinished") for file in files)
    for file in files & {"last.ckpt", "best.ckpt"}:
        assert damage(folder / name / "checkpoints" / file) is None
    start(folder, name).done()
    assert_same(folder / name, folder / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_stop_after_the_step_and_say_how_to_go_on(folder, number):
    name = number.name
    run = start(folder, name, before=partial(signal_at_batch, number, 13))
    assert run.wait() == 128 + number
    assert checkpoint(folder / name)["global_step"] == 14
    assert f"stopped by {name}, step 14 is saved" in run.text and "Traceback" not in run.text
    advice = f"continue with: python -m itm.train resume={folder / name}"
    assert advice in run.text
    # What it says is all that is needed, also after the folder was moved.
    (folder / name).rename(folder / f"{name}_moved")
    Run("--config-dir", "conf", f"resume={name}_moved", cwd=folder, name=name).done()
    assert_same(folder / f"{name}_moved", folder / "whole")


def test_a_signal_breaks_a_validation_off(folder):
    run = start(folder, "validating", before=partial(signal_in_validation, signal.SIGTERM, 1))
    assert run.wait() == 128 + signal.SIGTERM
    assert "step 20 is saved" in run.text
    start(folder, "validating").done()
    assert_same(folder / "validating", folder / "whole")


def hang_at_batch(batch):
    from itm.training.callbacks import StepSeed

    def hook_and_sleep(self, trainer, *arguments):
        while trainer.fit_loop.total_batch_idx == batch:
            time.sleep(0.01)

    StepSeed.on_train_batch_start = hook_and_sleep


def test_a_second_interrupt_does_not_wait_for_the_step(folder):
    run = start(folder, "twice", before=partial(hang_at_batch, 4))
    while not (folder / "twice/checkpoints/last.ckpt").exists():
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGINT)
    while "stopping after this step" not in run.text:
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGINT)
    assert run.wait() == 1
    assert "is saved; continue with: python -m itm.train resume=" in run.text


def test_workers_change_nothing_before_and_after_a_stop(folder):
    more, stop = ("data.workers=2", "deterministic=true"), partial(signal_at_batch, 15, 14)
    start(folder, "workers", *more, before=stop).wait()
    start(folder, "workers", *more).done()
    assert_same(folder / "workers", folder / "whole")


def test_a_full_disk_keeps_the_previous_checkpoint(folder):
    start(folder, "full", "trainer.max_epochs=1", "test=false").done()
    size = (folder / "full/checkpoints/last.ckpt").stat().st_size
    run = start(folder, "full", before=partial(small_disk, size // 2))
    assert run.wait() == 1
    assert "error: cannot write" in run.text and "File too large" in run.text
    assert "continue with: python -m itm.train resume=" in run.text
    assert checkpoint(folder / "full")["global_step"] == 10
    assert not list((folder / "full").rglob("*.unfinished"))
    start(folder, "full").done()
    assert_same(folder / "full", folder / "whole")


def test_a_damaged_last_checkpoint_falls_back_to_the_best(folder):
    start(folder, "damaged", "trainer.max_epochs=2", "test=false").done()
    checkpoints = folder / "damaged/checkpoints"
    data = (checkpoints / "last.ckpt").read_bytes()
    (checkpoints / "last.ckpt").write_bytes(data[: len(data) // 2])
    text = start(folder, "damaged").done()
    assert f"cannot read {folder}/damaged/checkpoints/last.ckpt: it is cut off" in text
    assert f"continuing from {folder}/damaged/checkpoints/best.ckpt" in text
    assert_same(folder / "damaged", folder / "whole")


def test_damage_everywhere_is_an_error_that_names_the_files(folder, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    data = bytearray((folder / "whole/checkpoints/last.ckpt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "checkpoints/last.ckpt").write_bytes(data)
    run = start(folder, tmp_path)
    assert run.wait() == 1
    assert f"cannot read {tmp_path}/checkpoints/last.ckpt: its part" in run.text
    run = Run(*ARGUMENTS, f"resume={tmp_path}/checkpoints/last.ckpt", cwd=folder, name="explicit")
    assert run.wait() == 1 and "is damaged" in run.text and "Traceback" not in run.text


def test_another_batch_size_goes_on_at_the_same_caption(folder):
    """The same arithmetic serves another number of processes."""
    start(folder, "other", before=partial(signal_at_batch, signal.SIGTERM, 13)).wait()
    start(folder, "other", "data.batch_size=16").done()
    last = checkpoint(folder / "other")
    # 14 steps of 32; 8 of 20 batches of 16 are done in the second epoch, 12 + 20 remain.
    assert (last["epoch"], last["global_step"]) == (2, 14 + 12 + 20)
    assert [x["last_epoch"] for x in last["lr_schedulers"]] == [EPOCHS]


def test_a_finished_run_is_finished(folder):
    for _ in range(2):
        start(folder, "again").done()
    assert checkpoint(folder / "again")["global_step"] == STEPS
    assert_same(folder / "again", folder / "whole")


def test_runs_record_how_they_were_made(folder):
    results = json.loads((folder / "whole/results.json").read_text())
    assert results["seed"] == 0 and results["versions"]["torch"] == torch.__version__
    assert results["command"].startswith("python -m itm.train model=mean loss=sam")


# Long ------------------------------------------------------------------------------------------

CVSE = (
    "model=cvse", "model.embed_dim=16", "model.word_dim=8", "model.concept_dim=8",
    "data.num_concepts=20", "data.workers=2", "trainer.max_epochs=30",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("more", [("trainer.max_epochs=30",), CVSE], ids=["mean", "cvse"])
def test_many_kills(folder, more, capsys):
    """Dropout, batch norm, several optimiser groups and loader workers, in the second run."""
    name = f"long{len(more)}"
    start(folder, f"{name}_whole", *more).done(900)
    at = killed_at_random(folder, name, 25, *more)
    start(folder, name, *more).done(900)
    with capsys.disabled():
        print(f"\n{len(at)} kills; steps in last.ckpt after them: {at}")
    assert len(at) >= 20 and len(set(at)) >= 10
    assert_same(folder / name, folder / f"{name}_whole")


SETTINGS = {
    "plain": (),
    "ema": ("callbacks=ema", "callbacks.ema.decay=0.9"),
    "early_stopping": ("callbacks=early_stopping", "callbacks.early_stopping.patience=1",
                       "trainer.max_epochs=5"),
    "accumulation": ("trainer.accumulate_grad_batches=3",),
    "half_epochs": ("trainer.val_check_interval=0.5",),
    "every_4_steps": ("trainer.val_check_interval=4", "trainer.check_val_every_n_epoch=null"),
    "every_2_epochs": ("trainer.check_val_every_n_epoch=2",),
    "steps": ("trainer.max_steps=13",),
    "all": ("trainer.max_steps=13", "trainer.max_epochs=9", "trainer.val_check_interval=3",
            "trainer.accumulate_grad_batches=2"),
    "workers": ("data.workers=2",),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_kill_after_each_write(folder, setting):
    more = ("data.limit=32", "test=false", *SETTINGS[setting])
    start(folder, f"{setting}_whole", *more).done()
    for number in range(1, 30):
        name = f"{setting}{number}"
        if start(folder, name, *more, before=partial(die_after_a_write, number)).wait() == 0:
            break  # there were fewer writes
        start(folder, name, *more).done()
        assert_same(folder / name, folder / f"{setting}_whole")
    assert number > 3
