"""What a resumed run may change, and that its records tell of the training that was done."""

import json
from types import SimpleNamespace

import pytest
import torch
from cli import run
from fast import FAST
from hydra.types import RunMode
from omegaconf import OmegaConf

from itm.app.resume_changes import changes_of_training, check_changes
from itm.app.resume_options import recorded_values
from itm.app.run_folder import claim
from itm.runs.run_files import read_results
from itm.utils.errors import TakenError

SMALL = ["model=scan", "data.root.images=[8,4,4]"]


def record(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one epoch, which the tests below do not change."""
    folder = tmp_path_factory.mktemp("runs")
    run("train", *FAST, "model=vsepp", "hydra.run.dir=run", cwd=folder)
    return folder / "run"


@pytest.mark.parametrize(
    "options",
    [("lr=0.5", "loss.margin=0.9"), ("data.root.seed=5", "max_epochs=3")],
    ids=["nothing left to train", "other data"],
)
def test_a_refused_run_keeps_record_and_results(options, finished):
    before, results = record(finished), read_results(finished)
    text = run("train", "resume=run", *options, cwd=finished.parent, fails=True)
    assert "no step was left to train" in text or "the data have changed" in text
    assert record(finished) == before and read_results(finished) == results is not None


def test_how_processes_normalise_and_decay_of_text_are_of_the_training(finished):
    now = ["trainer.sync_batchnorm=true", "+decay_of_text.gru=0.5", "trainer.profiler=simple"]
    found = changes_of_training(
        finished, [*json.loads((finished / "run.json").read_text())["overrides"], *now]
    )
    assert found == ["trainer.sync_batchnorm False -> True", "decay_of_text.gru None -> 0.5"]
    check_changes(SMALL, [*SMALL, *now])


def test_changes_of_the_training_are_recorded_with_the_results(tmp_path):
    run("train", *FAST, "model=vsepp", "hydra.run.dir=run", cwd=tmp_path)
    steps = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"]
    more = "trainer.max_epochs=2", "trainer.log_every_n_steps=1"
    run("train", "resume=run", *more, cwd=tmp_path)  # equal to a run of two epochs
    assert "changes" not in record(tmp_path / "run")
    run("train", "resume=run", "trainer.max_epochs=3", "loss.margin=0.1", cwd=tmp_path)
    expected = [f"loss.margin 0.2 -> 0.1 at step {2 * steps}"]
    assert record(tmp_path / "run")["changes"] == expected
    assert read_results(tmp_path / "run")["changes"] == expected
    other = "resume=run/checkpoints/last.ckpt", "loss.margin=0.1", "trainer.max_epochs=4"
    run("train", *FAST, "model=vsepp", *other, "hydra.run.dir=other", cwd=tmp_path)
    assert record(tmp_path / "other")["changes"] == expected  # the training is that of both
    rows = (tmp_path / "run/csv/metrics.csv").read_text().splitlines()
    at = rows[0].split(",").index("test/rsum")
    assert sum(bool(row.split(",")[at]) for row in rows[1:]) == 1  # of the last attempt


def test_a_warm_up_keeps_its_place_with_another_batch_size(tmp_path):
    """8 of 16 batches of 32 are 4 of 8 batches of 64."""
    small = [option for option in FAST if "batch_size" not in option and "warmup" not in option]
    small = [option for option in small if "limit_train" not in option]
    options = *small, "model=vsepp", "data.limit=50", "warmup_epochs=2", "recipe=null", "test=false"
    run("train", *options, "data.batch_size=32", "hydra.run.dir=run", cwd=tmp_path)
    text = run("train", "resume=run", "trainer.max_epochs=2", "data.batch_size=64", cwd=tmp_path)
    assert "resumed at batch 4 of the warm-up, was 8" in text
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert int(saved["loss.steps"]) == 8


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (["trainer.limit_val_batches=0.5"], ["trainer.limit_val_batches=1.0"]),
        (["trainer.limit_val_batches=1"], ["trainer.limit_val_batches=1.0"]),
        (
            ["trainer.limit_val_batches=2", "data.eval_batch_size=10"],
            ["trainer.limit_val_batches=2", "data.eval_batch_size=20"],
        ),
    ],
)
def test_the_part_that_is_validated_stays(before, now):
    """The best score is that of the part."""
    with pytest.raises(ValueError, match="cannot change (trainer.limit_val|data.eval_batch_size)"):
        check_changes([*SMALL, *before], [*SMALL, *now])


def test_the_size_of_batches_and_a_first_validation_are_free(capsys):
    check_changes([*SMALL, "data.eval_batch_size=10"], [*SMALL, "data.eval_batch_size=20"])
    whole = "trainer.limit_val_batches=1.0"
    check_changes([*SMALL, "trainer.limit_val_batches=0"], [*SMALL, whole])
    capsys.readouterr()
    one, every = "trainer.limit_train_batches=1", "trainer.limit_train_batches=1.0"
    check_changes([*SMALL, one], [*SMALL, every])
    assert "trainer.limit_train_batches 1 -> 1.0" in capsys.readouterr().out


def test_files_that_have_changed_since_are_noticed(capsys):
    kept = {"seed": 3, "lr": 0.5, "data.root": "elsewhere", "gone": 1}
    with pytest.raises(ValueError, match=r"cannot change seed 3 -> 0:"):
        check_changes(SMALL, SMALL, kept)
    del kept["seed"]
    check_changes(SMALL, SMALL, kept)
    assert "other options than before: lr 0.5 -> 0.002\n" in capsys.readouterr().out


def test_the_values_of_a_record_are_those_of_its_options(finished, capsys):
    """Else every resumed run would seem to have changed."""
    from itm.app.resume_options import read_recorded

    options, kept = read_recorded(finished), recorded_values(finished)
    assert kept["loss.margin"] == "${margin}" and kept["margin"] == 0.2
    check_changes(options, options, kept)
    assert capsys.readouterr().out == ""
    assert changes_of_training(finished, options) == []


@pytest.mark.parametrize(
    ("schedule", "option", "said"),
    [
        ("step", "max_epochs=99", []),
        ("cosine", "max_epochs=99", ["max_epochs 6 -> 99"]),
        ("step", "data.workers=1", []),
        ("step", "lr=1.0e-5", ["lr 0.002 -> 1e-05"]),
        ("step", "callbacks.last.minutes=1", []),
        ("step", "callbacks.checkpoint.save_top_k=0", ["callbacks.checkpoint.save_top_k 1 -> 0"]),
        ("step", "trainer.accumulate_grad_batches=2", ["trainer.accumulate_grad_batches 1 -> 2"]),
    ],
)
def test_what_makes_another_training(schedule, option, said, tmp_path):
    before = [*SMALL, f"scheduler={schedule}"]
    (tmp_path / "run.json").write_text(json.dumps({"overrides": before}))
    assert changes_of_training(tmp_path, [*before, option]) == said


def test_a_damaged_record_hinders_no_run_that_names_its_checkpoint(tmp_path):
    (tmp_path / "run.json").write_text("{")
    assert changes_of_training(tmp_path, [*SMALL, "lr=1"]) == []


def test_a_resumed_sweep_gives_no_job_another_value(tmp_path, monkeypatch):
    job = tmp_path / "1"
    (job / "checkpoints").mkdir(parents=True)
    torch.save({}, job / "checkpoints/last.ckpt")
    (job / "run.json").write_text(json.dumps({"overrides": [*SMALL, "loss.margin=0.8"]}))
    typed = {"hydra": {"overrides": {"task": [*SMALL, "loss.margin=0.1,0.4", "lr=0.1"]}}}
    OmegaConf.save(OmegaConf.create(typed), tmp_path / "multirun.yaml")
    sweep = SimpleNamespace(dir=str(tmp_path))
    node = SimpleNamespace(
        mode=RunMode.MULTIRUN, sweep=sweep, sweeper={}, runtime=SimpleNamespace(config_sources=[])
    )
    monkeypatch.setattr("itm.app.run_folder.HydraConfig.get", lambda: node)
    with pytest.raises(TakenError, match=r"margin 0.8 -> 0.4.*sweep are continued by their number"):
        claim(job, True, [*SMALL, "loss.margin=0.4", "lr=0.1"])
    claim(job, True, [*SMALL, "loss.margin=0.8", "lr=0.1"])  # of all jobs


def test_another_number_of_the_environment_is_a_change(tmp_path, monkeypatch, capsys):
    option = ["model=vsepp", 'margin="${oc.decode:${oc.env:ITM_TEST_MARGIN}}"']
    for kept, now, told in (("0.1", "0.3", True), ("0.1", "0.1", False)):
        monkeypatch.setenv("ITM_TEST_MARGIN", now)
        check_changes(option, option, {"margin": float(kept)})
        assert ("margin 0.1 -> 0.3" in capsys.readouterr().out) == told
