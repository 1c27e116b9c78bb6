"""A run that was cut goes on where it stopped, with the same data."""

import signal
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from toy import MeanMatcher

from itm.data import RegionDataModule
from itm.losses import Triplet
from itm.training.callbacks import EarlyStopping, StepSeed, WarmupInEpochs
from itm.training.checkpoint_files import CheckpointFiles
from itm.training.optim import CosineLR, Schedule, StepLR
from itm.training.resume import Interrupted, LastCheckpoint, earlier_seconds

STEPS = 5  # per epoch


def write(folder, change=()):
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for split in ("train", "dev"):
        kinds = [str(kind) for kind in rng.choice(["dog", "cat", "car"], 50)]
        features = rng.standard_normal((10, 3, 6)).astype(np.float32)
        if (split, "features") in change:
            features[-1] += 1
        if (split, "captions") in change:
            kinds[7] = "dog" if kinds[7] == "cat" else "cat"
        np.save(folder / f"{split}_ims.npy", features)
        lines = [f"a {kind} runs" for kind in kinds]
        (folder / f"{split}_caps.txt").write_text("\n".join(lines) + "\n")
    return folder


def fit(
    folder, run, resume=False, callbacks=(), schedule=None, every=None, size=10, loss=None,
    make=MeanMatcher, **options,
):  # fmt: skip
    pl.seed_everything(0, verbose=False)
    last = run / "checkpoints"
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, enable_checkpointing=True, plugins=[CheckpointFiles()],
        callbacks=[LastCheckpoint(last, every), StepSeed(0), *callbacks],
        **{"max_epochs": 3, "default_root_dir": run, **options},
    )  # fmt: skip
    matcher = make(embed_dim=8, loss=loss or Triplet(), scheduler=schedule)
    data = RegionDataModule(folder, batch_size=size, min_count=1)
    trainer.fit(matcher, data, ckpt_path=last / "last.ckpt" if resume else None)
    return trainer, matcher


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "small")


@pytest.mark.parametrize(
    "options, cut",
    [({}, 3), ({}, STEPS), ({}, 8), ({"val_check_interval": 2}, 7), ({"val_check_interval": 2}, 6),
     ({"accumulate_grad_batches": 2}, 4)],
    ids=str,
)  # fmt: skip
def test_a_run_cut_by_max_steps_goes_on_where_it_stopped(options, cut, folder, tmp_path):
    whole, expected = fit(folder, tmp_path / "whole", **options)
    trainer, _ = fit(folder, tmp_path / "run", max_steps=cut, **options)
    assert trainer.global_step == cut
    trainer, matcher = fit(folder, tmp_path / "run", resume=True, **options)
    assert trainer.global_step == whole.global_step and trainer.current_epoch == 3
    for name, value in matcher.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name


SCHEDULES = {
    "cosine in steps": Schedule(partial(CosineLR, total=None, warmup=0.2), interval="step"),
    "one cycle": Schedule(partial(OneCycleLR, max_lr=1e-3, total_steps=None)),
    "plateau": Schedule(
        partial(ReduceLROnPlateau, mode="max", factor=0.5, patience=0, threshold=9)
    ),
    "plateau in steps": Schedule(
        partial(ReduceLROnPlateau, factor=0.5, patience=1, threshold=9),
        interval="step",
        monitor="train/loss",
    ),
}


class Fail(pl.Callback):
    """A crash before a training step, or in the validation of an epoch."""

    def __init__(self, step=None, epoch=None):
        self.step, self.epoch = step, epoch

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise RuntimeError("crash")

    def on_validation_epoch_start(self, trainer, module):
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("crash")


@pytest.mark.parametrize("crash", [{"step": 8}, {"step": 10}, {"epoch": 1}], ids=str)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_goes_on_where_a_crashed_run_stopped(name, crash, folder, tmp_path):
    """Rates and batches equal those of a run without a crash."""
    options = {"schedule": SCHEDULES[name], "every": 1, "max_epochs": 4}
    whole, expected = fit(folder, tmp_path / "whole", **options)
    with pytest.raises(RuntimeError, match="crash"):
        fit(folder, tmp_path / "run", callbacks=[Fail(**crash)], **options)
    trainer, matcher = fit(folder, tmp_path / "run", resume=True, **options)
    rates = [run.optimizers[0].param_groups[0]["lr"] for run in (whole, trainer)]
    assert rates[0] == rates[1] != 2e-4
    assert trainer.global_step == whole.global_step == 4 * STEPS
    for name, value in matcher.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name


@pytest.mark.parametrize(
    "options, validations",
    [({}, 4), ({"val_check_interval": 2}, 8), ({"check_val_every_n_epoch": 2}, 2)],
    ids=str,
)
@pytest.mark.parametrize("crash", [7, 8, 12])
def test_a_plateau_steps_at_each_validation_once(options, validations, crash, folder, tmp_path):
    """As early stopping counts; neither an epoch without a validation nor a crash adds a step."""
    options = {"schedule": SCHEDULES["plateau"], "every": 1, "max_epochs": 4, **options}
    whole, expected = fit(folder, tmp_path / "whole", **options)
    with pytest.raises(RuntimeError, match="crash"):
        fit(folder, tmp_path / "run", callbacks=[Fail(crash)], **options)
    trainer, matcher = fit(folder, tmp_path / "run", resume=True, **options)
    steps = [x.lr_scheduler_configs[0].scheduler.last_epoch for x in (whole, trainer)]
    assert steps == [validations, validations]
    rates = [x.optimizers[0].param_groups[0]["lr"] for x in (whole, trainer)]
    assert rates[0] == rates[1] == 2e-4 * 0.5 ** (validations - 1)
    for name, value in matcher.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name


def test_what_watches_the_training_loss_gets_the_mean_of_the_epoch(folder, tmp_path):
    """Not that of the last batch; a resumed epoch continues the mean."""

    class Losses(pl.Callback):
        found = ()

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            size = len(batch.captions.lengths)
            self.found = (*self.found, (float(outputs["per_pair"]), size))

    def keeper(name):
        return ModelCheckpoint(
            tmp_path / name, "{epoch}", monitor="train/loss", mode="min", save_top_k=-1
        )

    losses, first, second = Losses(), keeper("a"), keeper("run/checkpoints")
    options = {"every": 1, "size": 8}
    fit(folder, tmp_path / "whole", callbacks=[losses, first], **options)
    with pytest.raises(RuntimeError, match="crash"):
        fit(folder, tmp_path / "run", callbacks=[second, Fail(9)], **options)
    fit(
        folder,
        tmp_path / "run",
        resume=True,
        callbacks=[second := keeper("run/checkpoints")],
        **options,
    )
    epochs = np.array(losses.found).reshape(3, -1, 2)
    assert len({*epochs[0, :, 1]}) > 1  # the last batch is shorter
    means = [np.average(epoch[:, 0], weights=epoch[:, 1]) for epoch in epochs]
    for kept in (first, second):
        assert [float(x) for x in kept.best_k_models.values()] == pytest.approx(means)


@pytest.mark.filterwarnings("ignore:When using `Trainer.accumulate_grad_batches")
def test_a_changing_accumulation_goes_on_where_a_crashed_run_stopped(folder, tmp_path):
    def options():
        return {"callbacks": [GradientAccumulationScheduler({0: 1, 1: 2})], "every": 1}

    whole, expected = fit(folder, tmp_path / "whole", **options())
    crashing = options()
    crashing["callbacks"].append(Fail(7))
    with pytest.raises(RuntimeError, match="crash"):
        fit(folder, tmp_path / "run", **crashing)
    trainer, matcher = fit(folder, tmp_path / "run", resume=True, **options())
    assert trainer.global_step == whole.global_step < 3 * STEPS
    for name, value in matcher.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name


def test_the_seconds_of_all_attempts_count(folder, tmp_path):
    first, _ = fit(folder, tmp_path / "run", max_steps=3)
    second, _ = fit(folder, tmp_path / "run", resume=True)
    path = tmp_path / "run/checkpoints/last.ckpt"
    callbacks = torch.load(path, weights_only=False)["callbacks"]
    seconds = next(x["seconds"] for name, x in callbacks.items() if "LastCheckpoint" in name)
    assert earlier_seconds(first) == 0 < earlier_seconds(second) < seconds


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_signals_stop_after_saving(number, folder, tmp_path, capfd):
    class Send(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 2:
                signal.raise_signal(number)

    before = signal.signal(number, signal.SIG_DFL)  # the tests may run under nohup
    try:
        with pytest.raises(Interrupted) as stopped:
            fit(folder, tmp_path, callbacks=[Send()])
    finally:
        signal.signal(number, before)
    assert stopped.value.code == 128 + number
    assert f"stopped by {number.name}, step 3 is saved" in capfd.readouterr().err


@pytest.mark.parametrize(
    "number, done, saved", [(signal.SIGINT, 3, 4), (signal.SIGTERM, 3, 4), (signal.SIGTERM, 15, 15)]
)
def test_a_signal_before_the_first_step_of_a_resumed_run_stops_after_saving_it(
    number, done, saved, folder, tmp_path, capfd, monkeypatch
):
    """Lightning installs handlers of its own before it asks for the loaders."""
    fit(folder, tmp_path, max_steps=done)
    loader, lines = RegionDataModule.train_dataloader, []

    def loader_after_signal(data):
        signal.raise_signal(number)
        return loader(data)

    monkeypatch.setattr(RegionDataModule, "train_dataloader", loader_after_signal)
    monkeypatch.setattr("itm.training.resume.log", lines.append)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(Interrupted) as stopped:
            fit(folder, tmp_path, resume=True)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert stopped.value.code == 128 + number
    assert f"stopped by {number.name}, step {saved} is saved" in capfd.readouterr().err
    last = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == saved
    assert (
        len(lines) == 1 and f"step {saved} is saved; continue with: python -m itm.train" in lines[0]
    )


def test_a_signal_in_the_test_ends_the_process_with_its_code(folder, tmp_path, capfd):
    class Send(pl.Callback):
        def on_validation_batch_start(self, trainer, *arguments):
            if trainer.state.fn == "validate":
                signal.raise_signal(signal.SIGTERM)

    trainer, matcher = fit(folder, tmp_path, callbacks=[Send()], max_epochs=1)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as stopped:
            trainer.validate(matcher, RegionDataModule(folder, batch_size=5, min_count=1))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert f"step {STEPS} is saved; continue with" in capfd.readouterr().err


def test_under_nohup_a_closed_terminal_is_ignored(folder, tmp_path):
    class Send(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            signal.raise_signal(signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        trainer, _ = fit(folder, tmp_path, callbacks=[Send()], max_epochs=1)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert trainer.global_step == STEPS


@pytest.mark.parametrize(
    "split, part", [("train", "features"), ("train", "captions"), ("dev", "features")]
)
def test_changed_data_are_noticed(split, part, folder, tmp_path):
    """The best score was measured on the validation data of before."""
    fit(folder, tmp_path / "run", max_steps=3)
    other = write(tmp_path / "other", {(split, part)})
    name = {"dev": "val"}.get(split, split)
    with pytest.raises(ValueError, match=f"the data have changed .*{name} {part}: .* -> "):
        fit(other, tmp_path / "run", resume=True)
    fit(write(tmp_path / "same"), tmp_path / "run", resume=True)  # elsewhere, but the same


def test_the_last_checkpoint_is_written_after_minutes_or_steps(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("itm.training.resume.time.monotonic", lambda: now[0])
    last = LastCheckpoint(tmp_path, every_n_train_steps=3, minutes=2)
    assert not last._is_late()
    assert not last._has_done_enough(2) and last._has_done_enough(3)
    now[0] = 120.0
    assert last._is_late()
    with pytest.raises(ValueError, match="minutes must be above 0"):
        LastCheckpoint(tmp_path, minutes=0)


@pytest.mark.parametrize("every", [1, 5, 7])
def test_processes_write_in_time_whatever_steps_are_logged(every, tmp_path, monkeypatch):
    """They exchange at steps 5, 15, ..., which may be the very steps that are logged."""
    written, now = [], [0.0]
    monkeypatch.setattr("itm.training.resume.time.monotonic", lambda: now[0])
    for name in ("accumulates", "ends_epoch", "validates_next"):
        monkeypatch.setattr(f"itm.training.resume.{name}", lambda trainer: False)
    monkeypatch.setattr(
        "itm.training.resume.logs_this_step", lambda trainer: trainer.global_step % every == 0
    )
    last = LastCheckpoint(tmp_path, minutes=1)
    trainer = SimpleNamespace(
        world_size=2, max_steps=-1, log_every_n_steps=every, loggers=[], fast_dev_run=False,
        lightning_module=torch.nn.Linear(1, 1),
        strategy=SimpleNamespace(reduce_boolean_decision=lambda flag, all: flag),
        save_checkpoint=lambda *args, **options: written.append(trainer.global_step),
    )  # fmt: skip
    for trainer.global_step in range(1, 41):
        now[0] += 5
        last.on_train_batch_end(trainer, None, None, None, 0)
    assert written == {1: [15, 35], 5: [16, 36], 7: [15, 36]}[every]


@pytest.mark.parametrize("cut", [8, 10])
@pytest.mark.parametrize(("size", "unit"), [(25, 1), (5, 1), (10, 2)])
def test_a_schedule_ends_with_the_training_after_steps_of_another_size(
    cut, size, unit, folder, tmp_path
):
    """The rate goes on from where it was, and ends where it would have."""
    rates = []

    class Rates(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    schedule = Schedule(partial(CosineLR, total=None), interval="step")
    options = {"schedule": schedule, "max_epochs": 4, "callbacks": [Rates()]}
    with pytest.raises(RuntimeError, match="crash"):
        fit(folder, tmp_path, every=1, **{**options, "callbacks": [Rates(), Fail(step=cut)]})
    before = rates[-1]
    rates.clear()
    trainer, _ = fit(
        folder, tmp_path, resume=True, size=size, accumulate_grad_batches=unit, **options
    )
    steps = -(-50 // size // unit)
    assert trainer.lr_scheduler_configs[0].scheduler.total == 4 * steps
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 4 * steps
    assert rates == sorted(rates, reverse=True) and rates[0] == pytest.approx(before, rel=0.35)
    assert trainer.optimizers[0].param_groups[0]["lr"] < 1e-9


class Rates(pl.Callback):
    """Epoch, step and rates of all groups, before each batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
        self.seen.append((trainer.current_epoch, trainer.global_step, *rates))


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_training_made_longer_has_the_rates_of_one_planned_for_it(interval, folder, tmp_path):
    """The checkpoint at the end of an epoch holds a rate that followed from the shorter one: 0."""
    schedule = Schedule(partial(CosineLR, total=None), interval=interval)
    whole, longer = Rates(), Rates()
    fit(folder, tmp_path / "whole", schedule=schedule, max_epochs=4, callbacks=[whole])
    fit(folder, tmp_path / "run", schedule=schedule, max_epochs=2)
    fit(folder, tmp_path / "run", True, [longer], schedule, max_epochs=4)
    assert longer.seen == whole.seen[2 * STEPS :]
    assert longer.seen[0][2] == pytest.approx(1e-4)  # half of the first rate


class WithOwnSteps(MeanMatcher):
    def parameter_groups(self):
        main, *others = super().parameter_groups()
        image = list(self.image.parameters())
        main["params"] = [p for p in main["params"] if all(p is not q for q in image)]
        own = {"name": "image", "params": image, "lr_scale": 3.0, "step_size": 2, "gamma": 0.5}
        return [main, *others, own]


OWN_STEPS = {
    "schedule": Schedule(partial(StepLR, step_size=4), interval="step"), "make": WithOwnSteps,
}  # fmt: skip


def check_rates(seen):
    """Those of the main parameters fall by steps, those of the other group by epochs."""
    for epoch, step, main, own in seen:
        assert main == pytest.approx(2e-4 * 0.1 ** (step // 4))
        assert own == pytest.approx(6e-4 * 0.5 ** (epoch // 2))


@pytest.mark.parametrize(
    "options",
    [{"max_epochs": 5}, {"max_epochs": 5, "accumulate_grad_batches": 2},
     {"max_epochs": -1, "max_steps": 22}],
    ids=str,
)  # fmt: skip
def test_a_step_size_of_a_group_is_in_epochs_under_a_schedule_in_steps(options, folder, tmp_path):
    rates = Rates()
    fit(folder, tmp_path, callbacks=[rates], **OWN_STEPS, **options)
    assert rates.seen[-1][0] == 4
    check_rates(rates.seen)


@pytest.mark.parametrize("size", [10, 25, 5])
def test_a_step_size_of_a_group_stays_in_epochs_after_steps_of_another_size(size, folder, tmp_path):
    with pytest.raises(RuntimeError, match="crash"):
        fit(folder, tmp_path, every=1, callbacks=[Fail(step=8)], **OWN_STEPS)
    rates = Rates()
    fit(folder, tmp_path, True, [rates], size=size, max_epochs=5, **OWN_STEPS)
    assert rates.seen[-1][0] == 4
    check_rates(rates.seen)


def test_a_step_size_of_a_group_needs_epochs_of_one_length(folder, tmp_path):
    changing = GradientAccumulationScheduler({0: 1, 1: 2})
    with pytest.raises(ValueError, match="group image brings step_size=2 in epochs.*=epoch"):
        fit(folder, tmp_path, callbacks=[changing], **OWN_STEPS)
    with pytest.raises(ValueError, match="unknown without a trainer: set scheduler.interval=epoch"):
        WithOwnSteps(9, 6, scheduler=OWN_STEPS["schedule"]).configure_optimizers()


@pytest.mark.parametrize(("size", "steps"), [(10, 7), (25, 3), (5, 14)])
def test_a_warm_up_in_epochs_keeps_its_place(size, steps, folder, tmp_path):
    """Seven of ten batches of 10 are 2.8 of 4 batches of 25: the same share of two epochs."""
    with pytest.raises(RuntimeError, match="crash"):
        loss = Triplet(warmup_steps=10)
        fit(folder, tmp_path, every=1, loss=loss, callbacks=[Fail(step=7)])
    begun = []

    class Begun(pl.Callback):
        def on_train_start(self, trainer, module):
            begun.append(int(module.loss.steps))

    loss = Triplet(warmup_steps=100 // size)
    fit(folder, tmp_path, True, size=size, loss=loss, callbacks=[WarmupInEpochs(), Begun()])
    assert begun == [steps]


def test_averaged_weights_are_tested(folder, tmp_path):
    """Lightning's callback would restore the weights of the last step."""
    average = pl.callbacks.EMAWeightAveraging(decay=0.9)
    best = pl.callbacks.ModelCheckpoint(tmp_path, "best", monitor="val/rsum", mode="max")
    trainer, matcher = fit(folder, tmp_path, callbacks=[average, best])
    data = trainer.datamodule
    data.test = "dev"
    trainer.validate(matcher, data, ckpt_path=best.best_model_path, verbose=False)
    assert trainer.callback_metrics["val/rsum"] == best.best_model_score
    trainer.test(matcher, data, ckpt_path=best.best_model_path, verbose=False)
    assert trainer.callback_metrics["test/rsum"] == best.best_model_score
    saved = torch.load(best.best_model_path, weights_only=False)
    for name, value in matcher.state_dict().items():
        assert torch.equal(value, saved["state_dict"][name]), name
    moved = [n for n, x in saved["current_model_state"].items()
             if not torch.equal(x, saved["state_dict"][n])]  # fmt: skip
    assert moved


@pytest.mark.parametrize("patience", [0, 1])
def test_a_patience_of_none_still_trains(patience, folder, tmp_path):
    """Lightning ends at the first validation without improvement for both; no step was made."""
    stopping = EarlyStopping("val/rsum", patience=patience, mode="max", min_delta=1e9)
    trainer, _ = fit(folder, tmp_path, callbacks=[stopping], max_epochs=4)
    assert trainer.current_epoch == 2 and trainer.global_step == 2 * STEPS
