"""The lines of a run: one per epoch, on the terminal and in train.log."""

import logging
import re

import pytest
import pytorch_lightning as pl
from cli import run
from fast import FAST
from pytorch_lightning.loggers import CSVLogger

import itm
from itm.losses import Triplet
from itm.models import TwoBranchEmbedding
from itm.training.callbacks import EarlyStopping
from itm.training.progress import Bar, EpochLine, say, scoring

LINE = re.compile(
    r"epoch (\d)/3  loss ([\d.]+) *  val rsum +[\d.]+ (\(best\)| {6})  lr 2e-3  \d+:\d\d", re.M
)


@pytest.mark.parametrize("bar", ["false", "true"])
def test_a_line_per_epoch_on_the_terminal_and_in_the_log(bar, tmp_path):
    text = run(
        "train", *FAST, "model=two_branch_embedding", "max_epochs=3",
        f"trainer.enable_progress_bar={bar}", "hydra.run.dir=run", cwd=tmp_path,
    )  # fmt: skip
    log = (tmp_path / "run/train.log").read_text()
    for written in (text, log):
        found = LINE.findall(written)
        assert [epoch for epoch, *_ in found] == ["1", "2", "3"]
        assert found[0][2] == "(best)"  # the first validation is the best so far
        assert "best checkpoint:" in written and "TwoBranchEmbedding: 41.1 k parameters" in written
        assert re.search(r"restored the weights of the best val rsum, [\d.]+\n", written)


def test_early_stopping_says_so(tmp_path):
    text = run(
        "train", *FAST, "model=two_branch_embedding", "max_epochs=5", "optimizer.lr=0",
        "callbacks=early_stopping", "callbacks.early_stopping.patience=1", "hydra.run.dir=run",
        "test=false", cwd=tmp_path,
    )  # fmt: skip
    said = r"stopped early after epoch 2: val/rsum has not improved on [\d.]+ in 1 validations"
    for written in (text, (tmp_path / "run/train.log").read_text()):
        assert re.search(said, written) and "epoch 3/5" not in written


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patience": 0}, ""),
        ({"stopping_threshold": 0.0}, "after epoch 1: Stopping threshold reached: watched = 1.0 >"),
        ({"stopping_threshold": 2.5}, "after epoch 3: Stopping threshold reached: watched = 3.0 >"),
        ({"divergence_threshold": 9.0}, "after epoch 1: Divergence threshold reached"),
    ],
)
def test_each_reason_to_stop_is_said(options, said, tmp_path, capsys):
    """The watched metric rises in every epoch."""

    class Rising(pl.Callback):
        def on_validation_epoch_end(self, trainer, module):
            module.log("watched", trainer.current_epoch + 1.0)

    stopping = EarlyStopping(monitor="watched", mode="max", **options)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=4, callbacks=[Rising(), stopping, EpochLine()], logger=False,
        default_root_dir=tmp_path, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    data = itm.build("two_branch_embedding", overrides=["data.limit=20", "data.batch_size=16"]).data
    trainer.fit(TwoBranchEmbedding(loss=Triplet(), hidden_dim=8, embed_dim=8), data)
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("stopped early")]
    assert len(lines) == bool(said) and said in "".join(lines)
    assert "Signaling" not in "".join(lines)


def test_a_run_that_goes_on_forgets_why_it_had_stopped():
    stopped, resumed = (EarlyStopping(monitor="x", stopping_threshold=1.0) for _ in range(2))
    stopped.stopped_epoch, stopped.stopping_reason_message = 2, "Stopping threshold reached"
    resumed.load_state_dict(stopped.state_dict())
    assert (resumed.stopped_epoch, resumed.stopping_reason_message) == (0, None)


def test_say_writes_to_files_once_and_prints_once(tmp_path, capsys):
    root, handler = logging.getLogger(), logging.FileHandler(tmp_path / "log")
    root.addHandler(handler)
    try:
        say("two\nlines")
    finally:
        root.removeHandler(handler)
        handler.close()
    assert capsys.readouterr().out == "two\nlines\n"
    assert (tmp_path / "log").read_text() == "two\nlines\n"


class Screen:
    """A progress bar's table of tasks."""

    def __init__(self):
        self.events = []

    def add_task(self, description, total):
        self.events.append((description, total))
        return 0

    def update(self, task, **change):
        self.events.append(change)

    def refresh(self):
        pass

    soft_refresh = refresh


def test_scoring_has_its_own_progress():
    bar = Bar()
    trainer = type("Trainer", (), {"progress_bar_callback": bar})
    bar.progress = Screen()
    assert list(scoring(trainer, [1, 2])) == [1, 2]
    advance = {"advance": 1}
    assert bar.progress.events == [("Scoring", 2), advance, advance, {"visible": False}]
    bar.progress = None  # no terminal
    assert list(scoring(trainer, [1, 2])) == [1, 2]


def test_the_bar_shows_loss_and_score_but_not_the_version(tmp_path):
    bar, shown = Bar(), []

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            shown.append(bar.get_metrics(trainer, module))

    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[bar, Look()], default_root_dir=tmp_path,
        enable_model_summary=False, logger=CSVLogger(tmp_path, version=7), log_every_n_steps=1,
        enable_checkpointing=False,
    )  # fmt: skip
    data = itm.build("two_branch_embedding", overrides=["data.limit=20", "data.batch_size=16"]).data
    trainer.fit(TwoBranchEmbedding(loss=Triplet(), hidden_dim=8, embed_dim=8), data)
    assert set(shown[1]) == {"train/loss", "val/rsum"}


def test_a_short_last_batch_is_no_cliff(tmp_path):
    """Losses are logged per pair, though the sum is minimised."""
    logged = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            size, summed = len(batch.captions.lengths), outputs["loss"].item()
            logged.append((size, summed, trainer.callback_metrics["train/loss"].item()))

    small = ["data.limit=7", "data.batch_size=10", "data.drop_last=false"]
    data = itm.build("two_branch_embedding", overrides=small).data
    for reduction in ("sum", "mean"):
        logged.clear()
        loss = Triplet(reduction=reduction)
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=1, callbacks=[Keep()], logger=False, log_every_n_steps=1,
            enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
            limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(TwoBranchEmbedding(loss=loss, hidden_dim=8, embed_dim=8), data)
        assert logged[0][0] == 10 and logged[-1][0] < 10
        for size, minimised, shown in logged:
            assert shown == pytest.approx(minimised / size if reduction == "sum" else minimised)


def test_an_end_within_the_first_epoch_is_said_too(tmp_path):
    text = run(
        "train", "trainer=cpu", "model=vsepp", "data.root.images=[40,20,20]", "lr=1e-9",
        "callbacks=early_stopping", "callbacks.early_stopping.patience=1", "model.embed_dim=8",
        "trainer.val_check_interval=2", "data.batch_size=20", "hydra.run.dir=run", cwd=tmp_path,
    )  # fmt: skip
    assert "stopped early after epoch 1" in text


def test_a_run_that_had_used_up_its_limit_says_so(tmp_path):
    common = (*FAST, "model=two_branch_embedding", "test=false", "hydra.run.dir=run")
    run("train", *common, "trainer.max_steps=2", cwd=tmp_path)
    text = run("train", "resume=run", cwd=tmp_path)
    assert "no training, because step 2 is max_steps: the weights stay" in text
    assert "stopped after" not in text
    text = run("train", *common, "trainer.max_time=00:00:00:00", "overwrite=true", cwd=tmp_path)
    assert "no training, because max_time is over: the weights stay" in text
