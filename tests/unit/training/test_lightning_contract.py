"""Each private part of Lightning that the library uses still does what it is used for."""

import csv
import signal
from datetime import timedelta

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.plugins import MixedPrecision
from torch.utils.data import DataLoader

from itm.training import lightning_private as private

BATCHES = 4


class Small(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().sum()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("score", self.layer(batch).sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class PlacedLoader(DataLoader):
    """A loader with a place that Lightning saves and restores."""

    place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]

    def __iter__(self):
        for i, batch in enumerate(super().__iter__()):
            if i >= self.place:
                self.place = i + 1
                yield batch
        self.place = 0


class Recorder(Callback):
    """What happened, in order, and what `ask` answered at the end of each training batch."""

    def __init__(self, ask=lambda trainer: None, edit=lambda checkpoint: None):
        self.ask, self.edit = ask, edit
        self.answers, self.events, self.seen, self.loaded = [], [], [], None

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.answers.append(self.ask(trainer))
        self.events.append(f"train {batch_idx}")
        self.seen.append(batch[0, 0].item() * BATCHES / 2)

    def on_validation_start(self, trainer, module):
        self.events.append("validate")

    def on_load_checkpoint(self, trainer, module, checkpoint):
        self.edit(checkpoint)
        self.loaded = checkpoint


def fit(folder, *callbacks, resume=None, logger=False, module=None, **options):
    data = torch.arange(2.0 * BATCHES).reshape(BATCHES, 2) / BATCHES
    options = {"max_epochs": 1, "val_check_interval": 1.0, "log_every_n_steps": 100, **options}
    trainer = pl.Trainer(
        accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), logger=logger,
        num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(x, ModelCheckpoint) for x in callbacks), **options,
    )  # fmt: skip
    loaders = PlacedLoader(data, batch_size=1), DataLoader(data, batch_size=2)
    trainer.fit(module or Small(), *loaders, ckpt_path=resume)
    return trainer


@pytest.mark.parametrize(
    ("options", "between"),
    [({}, False), ({"every_n_epochs": 2}, False), ({"every_n_train_steps": 3}, True),
     ({"train_time_interval": timedelta(minutes=1)}, True)],
)  # fmt: skip
def test_callbacks_that_save_between_validations_are_known(options, between, tmp_path):
    """Lightning writes after steps, too, although the score is that of an earlier validation."""
    keeper = ModelCheckpoint(tmp_path, monitor="score", mode="max", save_top_k=-1, **options)
    assert private.saves_between_validations(keeper) == between


class SaveAt(Callback):
    """Writes a checkpoint at the end of one training batch, or else at the first validation."""

    def __init__(self, path, batch=None, edit=lambda checkpoint: None):
        self.path, self.batch, self.edit = path, batch, edit

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == self.batch:
            trainer.save_checkpoint(self.path)

    def on_validation_start(self, trainer, module):
        if self.batch is None and not self.path.exists():
            trainer.save_checkpoint(self.path)

    def on_save_checkpoint(self, trainer, module, checkpoint):
        self.edit(checkpoint)


def test_attached_trainer(tmp_path):
    assert private.attached_trainer(Small()) is None
    found = []
    recorder = Recorder(lambda trainer: found.append(trainer.lightning_module))
    trainer = fit(tmp_path, recorder)
    assert private.attached_trainer(found[0]) is trainer is found[0].trainer


def test_accumulates(tmp_path):
    recorder = Recorder(private.accumulates)
    fit(tmp_path, recorder, accumulate_grad_batches=3)
    assert recorder.answers == [True, True, False, False]  # the epoch's last batch always steps


def test_ends_epoch(tmp_path):
    recorder = Recorder(private.ends_epoch)
    fit(tmp_path, recorder)
    assert recorder.answers == [False, False, False, True]


@pytest.mark.parametrize("interval", [2, 3, 1.0])
def test_validates_next(tmp_path, interval):
    recorder = Recorder(private.validates_next)
    fit(tmp_path, recorder, val_check_interval=interval)
    events = recorder.events
    trained = [i for i, event in enumerate(events) if event.startswith("train")]
    truth = [events[i + 1 : i + 2] == ["validate"] for i in trained]
    assert recorder.answers == truth and any(truth)


def test_logs_this_step(tmp_path):
    written = []

    class Logger(DummyLogger):
        def log_metrics(self, metrics, step):
            written.append(step)

    recorder = Recorder(private.logs_this_step)
    fit(tmp_path, recorder, logger=Logger(), log_every_n_steps=2, limit_val_batches=0)
    assert recorder.answers == [False, True, False, True]
    assert written == [1, 3]


def test_log_step(tmp_path):
    """A run that is stopped by a callback does not come to the logging of its step."""
    written = []

    class Logger(DummyLogger):
        def log_metrics(self, metrics, step):
            written.append(step)

    def stop(trainer):
        if trainer.global_step == 2:
            private.log_step(trainer)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fit(tmp_path, Recorder(stop), logger=Logger(), log_every_n_steps=1, limit_val_batches=0)
    assert written == [0, 1]


@pytest.mark.parametrize("once", [True, False])
def test_report_once(once, tmp_path):
    class Tested(Small):
        def test_step(self, batch, batch_idx, dataloader_idx=0):
            pass

        def on_test_epoch_end(self):
            self.log("score", 1.0)
            if once:
                private.report_once(self.trainer)

    trainer = pl.Trainer(
        accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    loader = DataLoader(torch.zeros(2, 2))
    results = trainer.test(Tested(), [loader, loader], verbose=False)
    assert results == [{"score": 1.0}] * (1 if once else 2)


@pytest.mark.parametrize("due", [True, False])
def test_plan_validation(tmp_path, due):
    def plan(checkpoint):
        private.plan_validation(checkpoint, due)

    path = tmp_path / "last.ckpt"
    fit(tmp_path, SaveAt(path, edit=plan), val_check_interval=2)
    recorder = Recorder()
    fit(tmp_path, recorder, resume=path, val_check_interval=2)
    assert recorder.events == ["validate"] * due + ["train 2", "train 3", "validate"]


def test_listen_with(tmp_path):
    heard = []

    class Listener(Callback):
        def setup(self, trainer, module, stage):
            private.listen_with(trainer, lambda: signal.signal(signal.SIGTERM, self.hear))

        def hear(self, number, frame):
            heard.append(number)

        def on_train_start(self, trainer, module):
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    trainer = fit(tmp_path, Listener())
    assert heard == [signal.SIGTERM] and not trainer.received_sigterm
    assert signal.getsignal(signal.SIGTERM) == before
    assert "register_signal_handlers" not in vars(trainer._signal_connector)


def test_loader_state_and_is_epoch_complete(tmp_path):
    path = tmp_path / "last.ckpt"
    for batch in (1, BATCHES - 1):
        fit(tmp_path, SaveAt(path, batch))
        checkpoint = torch.load(path, weights_only=True)
        assert private.loader_state(checkpoint) == {"place": batch + 1}
        assert private.is_epoch_complete(checkpoint) == (batch == BATCHES - 1)
    del checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert private.loader_state(checkpoint) is None


def test_move_to_batch(tmp_path):
    path = tmp_path / "last.ckpt"
    fit(tmp_path, SaveAt(path, 0))
    recorder = Recorder(edit=lambda checkpoint: private.move_to_batch(checkpoint, 3, {"place": 3}))
    trainer = fit(tmp_path, recorder, resume=path)
    assert recorder.events == ["train 3", "validate"]
    assert trainer.global_step == 2  # the step before the stop, and one more


def test_move_best_files(tmp_path):
    best = {"filename": "best", "monitor": "score", "save_weights_only": False}
    here, there = tmp_path / "here", tmp_path / "there"
    first = ModelCheckpoint(dirpath=here, **best)
    fit(tmp_path, first)
    here.rename(there)
    second = ModelCheckpoint(dirpath=there, **best)
    recorder = Recorder(edit=lambda checkpoint: private.move_best_files(checkpoint, there))
    fit(tmp_path, recorder, second, resume=there / "best.ckpt", max_epochs=1)
    assert second.best_model_score == first.best_model_score is not None
    assert second.best_model_path == str(there / "best.ckpt")
    assert str(here) not in str(recorder.loaded["callbacks"])


def test_keeping_writer(tmp_path, recwarn):
    (tmp_path / "metrics.csv").write_text("step,loss\n0,1.0\n")
    private.KeepingWriter(str(tmp_path))
    assert (tmp_path / "metrics.csv").is_file() and not recwarn.list
    with pytest.warns(UserWarning, match="will be deleted"):
        ExperimentWriter(str(tmp_path))  # what the class is for
    assert not (tmp_path / "metrics.csv").exists()


def test_use_writer(tmp_path):
    made = []

    def make(folder):
        made.append(private.KeepingWriter(folder))
        return made[-1]

    logger = CSVLogger(tmp_path, name="", version="csv")
    private.use_writer(logger, make)
    private.use_writer(logger, make)  # only a logger without a writer gets one
    assert logger.experiment is made[0] and len(made) == 1
    logger.log_metrics({"loss": 1.5}, step=3)
    logger.save()
    with open(tmp_path / "csv/metrics.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [{"loss": "1.5", "step": "3"}]
    assert made[0].metrics == [] and sorted(made[0].metrics_keys) == ["loss", "step"]


def test_a_resumed_loader_is_at_its_place_although_its_batches_were_counted(tmp_path):
    path = tmp_path / "mid.ckpt"
    fit(tmp_path, SaveAt(path, batch=1))
    counted, recorder = [], Recorder()

    class Counting(Small):
        def configure_optimizers(self):
            counted.append(private.steps_per_epoch(self.trainer))
            counted.append(private.count_steps(self.trainer))
            return super().configure_optimizers()

    fit(tmp_path, recorder, resume=path, module=Counting())
    assert counted == [BATCHES, BATCHES]
    assert [event for event in recorder.events if "train" in event] == ["train 2", "train 3"]
    assert recorder.seen == [2.0, 3.0]


def test_keep_samplers():
    """Lightning would replace the sampler of a loader in a training of several processes."""
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)
    loader, needed = DataLoader(range(4)), trainer._data_connector._requires_distributed_sampler
    assert needed(loader)
    private.keep_samplers(trainer)
    assert not needed(loader)


@pytest.mark.parametrize("fused", [False, True])
def test_unscale(fused, tmp_path):
    """A fused optimiser would unscale in its step, which then leaves the gradients as they are."""
    grads, weights = [], []

    class Scaled(Small):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1, fused=fused)

        def configure_gradient_clipping(self, optimizer, *given, **options):
            private.unscale(self.trainer, optimizer)
            grads.append([p.grad.clone() for p in self.parameters()])

        def on_train_batch_end(self, *given):
            weights.append([p.detach().clone() for p in self.parameters()])

    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    for plugins in ([], [MixedPrecision("16-mixed", "cpu", scaler)]):
        torch.manual_seed(0)
        module = Scaled()
        fit(tmp_path, module=module, plugins=plugins, gradient_clip_val=1.0, limit_val_batches=0)
    for both in (grads, weights):
        torch.testing.assert_close(both[:BATCHES], both[BATCHES:], rtol=0.02, atol=1e-3)
