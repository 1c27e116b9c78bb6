"""What can be known before training is checked before it."""

from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)

from itm.app.batch_limits import check_limits, check_test_limit, tell_single_pairs
from itm.app.checks import check_disk, check_protocol
from itm.app.config import compose
from itm.app.ranges import check_ranges
from itm.app.trainer import build_trainer
from itm.app.trainer_checks import (
    USUAL,
    check_callbacks,
    check_checkpoints,
    check_device,
    check_monitors,
    known_metrics,
)
from itm.app.unused import tell_unused_protocol
from itm.data.sampler import PairSampler
from itm.models import SCAN
from itm.training.optim import CosineLR, Schedule
from itm.training.resume import LastCheckpoint


def matcher(monitor=None):
    scheduler = None if monitor is None else Schedule(lambda optimizer: None, monitor=monitor)
    return SCAN(vocab_size=6, img_dim=4, word_dim=3, embed_dim=5, scheduler=scheduler)


def trainer(*callbacks):
    return SimpleNamespace(callbacks=list(callbacks))


def test_metrics_of_a_validation_are_known():
    assert {"val/rsum", "val/i2t_r1", "val/t2i_r10", "train/loss"} <= set(known_metrics())


@pytest.mark.parametrize(
    "name", ["val/rsum", "val/t2i_r5", "train/loss", "train/ranking", "lr-Adam"]
)
def test_monitors_that_exist(name):
    check_monitors(trainer(EarlyStopping(monitor=name), LearningRateMonitor()), matcher(name))


def test_monitors_that_do_not_exist():
    with pytest.raises(
        ValueError, match="monitor=val/r1 of EarlyStopping: no such metric; .*val/rsum"
    ):
        check_monitors(trainer(EarlyStopping(monitor="val/r1")), matcher())
    with pytest.raises(
        ValueError, match="monitor=val/rsun of the scheduler: .*did you mean val/rsum"
    ):
        check_monitors(trainer(), matcher("val/rsun"))
    with pytest.raises(ValueError, match="monitor=foo of .*: no such metric; usual ones are val"):
        check_monitors(trainer(EarlyStopping(monitor="foo")), matcher())
    usual = USUAL.replace(" and ", ", ").split(", ")
    assert set(usual) <= set(known_metrics())


def test_a_callback_of_the_user_may_log_more():
    class Mine(Callback):
        pass

    check_monitors(trainer(Mine(), EarlyStopping(monitor="mine")), matcher())


def test_a_protocol_of_another_size():
    split = SimpleNamespace(
        protocol="f30k_1k", num_images=4, captions=["a"] * 20, name="test", folder="DIR"
    )
    with pytest.raises(ValueError, match="split test of DIR: .*4 .*data.protocol=full, data.test="):
        check_protocol(split)
    split.protocol = "full"
    check_protocol(split)


def test_a_disk_without_room(tmp_path, monkeypatch):
    check_disk(tmp_path, matcher())
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(ValueError, match="MiB are free on this disk, but three checkpoints of"):
        check_disk(tmp_path, matcher())


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("gpu", "cuda"):
        with pytest.raises(ValueError, match="torch sees no GPU: use trainer=cpu"):
            check_device(name)
    check_device("auto")
    check_device("cpu")


@pytest.mark.parametrize(
    "option",
    ["limit_train_batches=2", "fast_dev_run=true", "overfit_batches=1", "profiler=simple",
     "max_time='00:01:00:00'", "accumulate_grad_batches=2", "max_steps=3", "gradient_clip_val=1",
     "limit_val_batches=1", "limit_test_batches=1", "detect_anomaly=true", "num_nodes=1",
     "min_epochs=1", "min_steps=1", "check_val_every_n_epoch=2", "val_check_interval=0.5",
     "log_every_n_steps=1", "deterministic=true", "benchmark=true", "sync_batchnorm=true",
     "inference_mode=false", "reload_dataloaders_every_n_epochs=1"],
)  # fmt: skip
def test_usual_options_of_the_trainer_need_no_plus(option):
    from itm.app.choices import rewrite_choices
    from itm.app.config import compose, instantiate

    cfg, *others = (
        compose(rewrite_choices(["trainer=cpu", f"{sign}trainer.{option}"]))
        for sign in ("", "+", "++")
    )
    assert others == [cfg, cfg]
    cfg.trainer.plugins = None
    assert isinstance(instantiate(cfg.trainer), Trainer)


def run_of(*callbacks, **options):
    known = {"check_val_every_n_epoch": 1, "limit_val_batches": 1.0, "max_epochs": 2}
    known["val_check_interval"] = 1.0
    return SimpleNamespace(callbacks=list(callbacks), **{**known, **options})


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (run_of(BatchSizeFinder()), "BatchSizeFinder tries batch sizes on one loader"),
        (run_of(type("Own", (BatchSizeFinder,), {})()), "Own tries batch sizes on one loader"),
        (
            run_of(LearningRateFinder()),
            "LearningRateFinder would set a rate that run.json does not",
        ),
        (
            run_of(StochasticWeightAveraging(swa_lrs=1e-3)),
            "neither best.ckpt nor the test has them: choose callbacks=ema",
        ),
        (
            run_of(EarlyStopping("val/rsum", mode="max", patience=-1)),
            "EarlyStopping: patience must be at least 0, got -1",
        ),
        (run_of(EarlyStopping("val/rsum")), "EarlyStopping: mode=min waits for val/rsum to fall"),
        (run_of(ModelCheckpoint(monitor="val/i2t_r1")), "ModelCheckpoint: mode=min waits for val"),
        (run_of(EarlyStopping("train/loss", mode="max")), "waits for train/loss to rise, but less"),
        (
            run_of(EarlyStopping("train/loss"), val_check_interval=0.5),
            "EarlyStopping would read train/loss at each validation.* loss of one batch",
        ),
        (
            run_of(EarlyStopping("val/rsum", mode="max"), limit_val_batches=0),
            "EarlyStopping waits for val/rsum, but trainer.limit_val_batches=0",
        ),
        (
            run_of(EarlyStopping("val/rsum", mode="max"), check_val_every_n_epoch=5),
            "check_val_every_n_epoch=5 is more than max_epochs=2",
        ),
    ],
)
def test_callbacks_that_cannot_do_their_work(run, message):
    with pytest.raises(ValueError, match=message):
        check_callbacks(run, matcher())


def test_a_schedule_of_unknown_length_is_refused():
    """A changing accumulation changes the number of steps."""
    planned = SCAN(9, scheduler=Schedule(partial(CosineLR, total=None), interval="step"))
    run = run_of(GradientAccumulationScheduler({0: 1, 2: 5}))
    with pytest.raises(ValueError, match="changes the number of steps.* scheduler.total=STEPS"):
        check_callbacks(run, planned)
    for known in (
        Schedule(partial(CosineLR, total=9), "step"),
        Schedule(partial(CosineLR, total=9)),
    ):
        check_callbacks(run, SCAN(9, scheduler=known))


def test_null_leaves_a_callback_or_logger_out(tmp_path, monkeypatch):
    monkeypatch.setattr("itm.app.trainer.output_folder", lambda: tmp_path)
    cfg = compose(["trainer=cpu", "callbacks.health=null", "logger.csv=null"])
    OmegaConf.update(cfg, "callbacks.checkpoint.dirpath", str(tmp_path))
    OmegaConf.update(cfg, "callbacks.last.dirpath", str(tmp_path))
    made = build_trainer(cfg)
    assert "Health" not in {type(callback).__name__ for callback in made.callbacks}
    assert made.loggers == []


def test_a_plateau_schedule_without_validation_is_refused():
    plateau = Schedule(torch.optim.lr_scheduler.ReduceLROnPlateau, monitor="val/rsum")
    with pytest.raises(ValueError, match="the scheduler waits for val/rsum, but trainer.limit_val"):
        check_callbacks(run_of(limit_val_batches=0), SimpleNamespace(scheduler=plateau))


def test_a_training_without_validation_is_told(capsys):
    best = ModelCheckpoint(monitor="val/rsum", mode="max")
    check_callbacks(run_of(best, check_val_every_n_epoch=5), matcher())
    assert "no validation, since trainer.check_val_every_n_epoch=5" in capsys.readouterr().out
    check_callbacks(run_of(best, max_epochs=-1, check_val_every_n_epoch=5), matcher())
    assert not capsys.readouterr().out


def test_a_number_per_epoch_names_the_callback():
    cfg = compose(["trainer.accumulate_grad_batches={0: 2, 4: 1}"])
    with pytest.raises(ValueError, match="must be a number; .*GradientAccumulationScheduler"):
        check_ranges(cfg)


@pytest.mark.parametrize("option", ["+trainer.logger=false", "+trainer.callbacks=[]"])
def test_loggers_and_callbacks_have_groups(option):
    with pytest.raises(ValueError, match="trainer.(logger|callbacks) has no effect: choose"):
        build_trainer(compose([option]))


@pytest.mark.parametrize("options", [["max_epochs=null"], ["trainer.max_epochs=null"]], ids=str)
def test_a_training_has_an_end(options):
    with pytest.raises(ValueError, match="max_epochs=null needs trainer.max_steps=N or"):
        check_ranges(compose(options))
    for more in ("max_steps=5", "max_time='00:00:01:00'", "fast_dev_run=true"):
        check_ranges(compose([*options, f"trainer.{more}"]))
    check_ranges(compose(["max_epochs=-1"]))


@pytest.mark.parametrize(
    "model", ["casc", "chan", "cvse", "saf", "scan_t2i", "sgr", "two_branch_embedding",
              "two_branch_similarity", "vse_infty", "vsepp", "vsrn"],
)  # fmt: skip
def test_sizes_of_every_model_are_positive(model):
    check_ranges(compose([f"model={model}"]))
    sizes = [key for key in compose([f"model={model}"]).model if key.endswith(("_dim", "layers"))]
    assert {"embed_dim", "word_dim"} <= set(sizes)
    for name in sizes:
        for value in (0, -3):
            with pytest.raises(ValueError, match=f"model.{name} must be at least 1, got {value}"):
                check_ranges(compose([f"model={model}", f"model.{name}={value}"]))


def test_profilers_fit_the_terminal(tmp_path, capsys):
    from itm.training.profiler import ROWS, ShortProfiler, profiler

    found = profiler("simple", tmp_path)
    assert isinstance(found, ShortProfiler)
    for i in range(40):
        with found.profile(f"[Callback]ModelCheckpoint{{'monitor': 'val/rsum', 'n': {i}}}.on_{i}"):
            pass
    lines = found.summary().splitlines()
    assert len(lines) == ROWS + 2 and all(len(line) < 80 for line in lines)
    assert "[Callback]ModelCheckpoint.on_" in lines[2]
    found.describe()
    assert "0 calls" in found.summary()  # the next stage counts anew
    assert profiler("pytorch", tmp_path) == "pytorch" and profiler(None, tmp_path) is None


def test_a_protocol_that_a_limit_replaces_is_told(capsys):
    typed = ["data=coco", "data.protocol=coco_5k", "data.limit=9"]
    tell_unused_protocol(compose(typed), typed)
    assert "data.protocol=coco_5k has no effect: data.limit=9 cuts" in capsys.readouterr().out


def test_a_fraction_of_the_test_that_leaves_no_batch():
    split = SimpleNamespace(num_images=60, captions=["a dog"] * 300)
    data = SimpleNamespace(test_split=split, eval_batch_size=256)
    with pytest.raises(ValueError, match=r"limit_test_batches=0\.5 of 1 batches leaves none"):
        check_test_limit(SimpleNamespace(limit_test_batches=0.5, world_size=1), data)
    for limit in (0, 1.0, 3):
        check_test_limit(SimpleNamespace(limit_test_batches=limit, world_size=1), data)


def limited(**limits):
    """A trainer with limits, and data of two training batches and one of validation and test."""
    split = SimpleNamespace(name="dev", num_images=60, captions=["a dog"] * 300)
    data = SimpleNamespace(
        val_split=split, test_split=split, eval_batch_size=60,
        train_sampler=lambda: PairSampler(np.zeros(60, int), 30),
    )  # fmt: skip
    if "overfit_batches" in limits:
        limits |= dict.fromkeys(
            ("limit_train_batches", "limit_val_batches"), limits["overfit_batches"]
        )
    usual = {f"limit_{stage}_batches": 1.0 for stage in ("train", "val", "test")}
    options = {"overfit_batches": 0.0, "world_size": 1, "max_steps": -1, "max_epochs": 1}
    options |= {**usual, **limits}
    return SimpleNamespace(**options), data


@pytest.mark.parametrize(
    ("name", "batches", "size"),
    [
        ("limit_train_batches", 2, "data.batch_size"),
        ("overfit_batches", 2, "data.batch_size"),
        ("limit_val_batches", 1, "data.eval_batch_size"),
        ("limit_test_batches", 1, "data.eval_batch_size"),
    ],
)
def test_a_share_that_leaves_no_batch(name, batches, size):
    with pytest.raises(
        ValueError,
        match=rf"trainer.{name}=0.4 of {batches} batches leaves none: .*{name}=1.*lower {size}",
    ):
        check_limits(*limited(**{name: 0.4}), test=True)
    check_limits(*limited(**{name: 1}), test=True)
    check_limits(*limited(limit_test_batches=0.4), test=False)


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_a_share_of_each_process(name):
    """Half of two batches of one process are one, half of one batch of each of two are none."""
    trainer, data = limited(**{f"limit_{name}_batches": 0.5})
    data.eval_batch_size = 30
    check_limits(trainer, data, test=True)
    trainer.world_size = 2
    with pytest.raises(ValueError, match=rf"limit_{name}_batches=0.5 of 1 batches leaves none"):
        check_limits(trainer, data, test=True)


def test_a_split_smaller_than_the_processes():
    trainer, data = limited(world_size=64)
    with pytest.raises(ValueError, match="split dev has 60 images or captions for 64 processes"):
        check_limits(trainer, data, test=False)


@pytest.mark.parametrize(
    "option", ["val_check_interval=0", "val_check_interval=-0.5", "check_val_every_n_epoch=0",
               "log_every_n_steps=0", "min_epochs=-1", "max_time=5"],
)  # fmt: skip
def test_intervals_are_positive(option):
    with pytest.raises(ValueError, match=rf"trainer.{option} must be (at least|above|a time)"):
        check_ranges(compose([f"trainer.{option}"]))


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_a_strategy_whose_processes_end_with_the_training(strategy):
    with pytest.raises(ValueError, match=f"strategy={strategy} trains in processes that end"):
        build_trainer(
            compose(
                [f"trainer.strategy={strategy}", "trainer.devices=2", "trainer.accelerator=cpu"]
            )
        )


@pytest.mark.parametrize(("size", "captions", "told"), [(1, 40, True), (9, 1, True), (2, 2, False)])
def test_batches_without_negatives_are_told(size, captions, told, capsys):
    """The loss was 0 in every epoch, and the table showed the initial weights."""
    sampler = PairSampler(np.arange(captions) // 5, size)
    data = SimpleNamespace(train_sampler=lambda: sampler, phrases=None)
    tell_single_pairs(SimpleNamespace(world_size=1), data)
    assert ("every training batch has one pair" in capsys.readouterr().out) is told


def test_what_does_not_run_is_told(capsys):
    check_limits(*limited(limit_train_batches=0, limit_test_batches=0), test=True)
    assert capsys.readouterr().out.splitlines() == [
        "no training, since trainer.limit_train_batches=0: the weights stay as they are",
        "no test, since trainer.limit_test_batches=0",
    ]
    check_limits(*limited(limit_test_batches=0, limit_val_batches=0), test=False)
    assert not capsys.readouterr().out
    check_limits(*limited(max_steps=0), test=False)
    assert capsys.readouterr().out.startswith("no training, since trainer.max_steps=0: the weight")


@pytest.mark.parametrize("precision", ["17", "fp16", "half"])
def test_precisions_that_matchers_have(precision):
    with pytest.raises(ValueError, match="trainer.precision must be 'auto', '32-true'"):
        build_trainer(compose([f"trainer.precision={precision}"]))


def test_a_size_that_refers_to_another_option_is_not_checked_as_text():
    check_ranges(compose(["model=vsepp", "model.embed_dim=${model.word_dim}"]))


def keeping(*callbacks):
    return Trainer(accelerator="cpu", logger=False, callbacks=list(callbacks))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"save_top_k": 3}, "save_top_k=3 would write several epochs to best.ckpt"),
        ({"save_top_k": -1}, "save_top_k=-1 would write"),
        ({"monitor": None}, "names no metric"),
        ({"filename": "{epoch}"}, "other commands read .*best.ckpt"),
        ({"every_n_train_steps": 3}, "weights that were not validated"),
        ({"train_time_interval": timedelta(minutes=1)}, "weights that were not validated"),
        ({"every_n_epochs": 2}, None),
        ({"dirpath": "elsewhere"}, "leave filename and dirpath"),
        ({}, None),
        ({"save_top_k": 0}, None),
    ],
    ids=str,
)
def test_the_best_checkpoint_is_where_other_commands_look(options, message, tmp_path):
    usual = {"dirpath": tmp_path / "checkpoints", "filename": "best", "monitor": "val/rsum"}
    made = keeping(ModelCheckpoint(**{**usual, **options}))
    if message is None:
        return check_checkpoints(made, tmp_path)
    with pytest.raises(ValueError, match=message):
        check_checkpoints(made, tmp_path)


def test_a_second_callback_may_keep_every_epoch(tmp_path):
    best = ModelCheckpoint(tmp_path / "checkpoints", "best", monitor="val/rsum")
    check_checkpoints(keeping(best, ModelCheckpoint(tmp_path / "all", save_top_k=-1)), tmp_path)


def test_the_last_checkpoint_is_where_a_resumed_run_looks(tmp_path):
    best = ModelCheckpoint(tmp_path / "checkpoints", "best", monitor="val/rsum")
    check_checkpoints(keeping(best, LastCheckpoint(tmp_path / "checkpoints")), tmp_path)
    with pytest.raises(ValueError, match="resume= reads .*last.ckpt.*hydra.run.dir"):
        check_checkpoints(keeping(best, LastCheckpoint(tmp_path / "fast")), tmp_path)
    with pytest.raises(ValueError, match="callbacks.checkpoint.*is missing"):
        check_checkpoints(keeping(LastCheckpoint(tmp_path / "checkpoints")), tmp_path)


@pytest.mark.parametrize("fast", [False, True])
def test_a_run_without_checkpoints_is_refused(fast, tmp_path):
    """At its end it asks which epoch was the best."""
    options = {"accelerator": "cpu", "logger": False, "fast_dev_run": fast}
    none = Trainer(enable_checkpointing=False, **options)
    with pytest.raises(ValueError, match="enable_checkpointing=false leaves no best.ckpt"):
        check_checkpoints(none, tmp_path)
    last = Trainer(callbacks=[LastCheckpoint(tmp_path / "checkpoints")], **options)
    with pytest.raises(ValueError, match="callbacks.checkpoint.*is missing"):
        check_checkpoints(last, tmp_path)
