"""A job of a sweep is a run of its own: its options start this run again, not the sweep."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from itm import train
from itm.app import entry
from itm.app.config import CONF, compose
from itm.app.resume_changes import check_changes
from itm.app.resume_options import with_recorded
from itm.app.sweep_options import of_one_run
from itm.app.training_run import begin_run

NAMES = sorted(path.stem for path in Path(CONF, "sweep").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_options_of_a_job_compose_as_its_sweep_did(name):
    if name in ("joblib", "optuna", "slurm"):  # their plugins are optional; they set hydra alone
        assert of_one_run(["seed=3", f"sweep={name}"]) == ["seed=3"]
        return
    typed = ["seed=3", f"sweep={name}", "model=cvse", "max_epochs=7"]
    alone = of_one_run(typed)
    assert not any("sweep" in option or "hydra" in option for option in alone)
    assert compose(alone) == compose(typed)


def test_own_sweeps_are_found_or_left_alone(tmp_path):
    (tmp_path / "sweep").mkdir()
    own = "# @package _global_\nlr: 0.5\ncompile: null\nmodel: {sizes: [1, 2]}\n"
    (tmp_path / "sweep/own.yaml").write_text(own)
    found = of_one_run(["lr=1", "sweep=own"], [tmp_path])
    assert found == ["compile=null", "model.sizes=[1,2]", "lr=1"]
    assert of_one_run(["sweep=nothing"], [tmp_path]) == ["sweep=nothing"]
    (tmp_path / "sweep/own.yaml").write_text("# @package _global_\ndefaults: [{/loss: sam}]\n")
    assert of_one_run(["sweep=own"], [tmp_path]) == ["sweep=own"]
    assert of_one_run(["lr=1"]) == ["lr=1"]


def test_a_resumed_job_keeps_what_its_sweep_set(tmp_path):
    record = {"overrides": ["data.fraction=0.1", "sweep=low_data", "model=cvse"]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    options = with_recorded(["resume=x"], tmp_path)
    assert {"callbacks=early_stopping", "max_epochs=200", "model=cvse"} <= set(options)
    assert "sweep=low_data" not in options


@pytest.fixture
def own(tmp_path):
    """A job of a sweep whose file is in a --config-dir, as an earlier version recorded it."""
    (tmp_path / "conf/sweep").mkdir(parents=True)
    (tmp_path / "conf/sweep/own.yaml").write_text("# @package _global_\nlr: 0.5\n")
    (tmp_path / "run").mkdir()
    facts = {"overrides": ["seed=1", "sweep=own"], "config_dir": str(tmp_path / "conf")}
    (tmp_path / "run/run.json").write_text(json.dumps(facts))
    return tmp_path


def test_a_resumed_job_finds_its_own_sweep(own):
    options = with_recorded(["resume=x"], own / "run")
    assert options[0] == f"--config-dir={own / 'conf'}" and {"lr=0.5", "seed=1"} <= set(options)
    (own / "conf").rename(own / "moved")
    with pytest.raises(FileNotFoundError, match="--config-dir .*conf, which is not here: give"):
        with_recorded(["resume=x"], own / "run")
    given = ["--config-dir", str(own / "moved"), "resume=x"]
    options = with_recorded(given, own / "run")
    assert options[:2] == given[:2] and {"lr=0.5", "seed=1"} <= set(options)


def test_a_sweep_that_is_not_found_is_named(own):
    facts = {"overrides": ["seed=1", "sweep=own"]}
    (own / "run/run.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="was a job of sweep=own, .* give --config-dir DIR"):
        with_recorded(["resume=x"], own / "run")
    options = with_recorded([f"--config-dir={own / 'conf'}", "resume=x"], own / "run")
    assert "lr=0.5" in options


def test_changes_are_compared_with_a_folder_of_configurations_too(own):
    before, flag = ["lr=0.5", "seed=1"], ["--config-dir", str(own / "conf")]
    with pytest.raises(ValueError, match="cannot change seed 1 -> 2"):
        check_changes(before, [*flag, "lr=0.5", "seed=2"])


def test_an_option_that_a_sweep_varies_and_the_loss_lacks_is_named(capsys, monkeypatch, tmp_path):
    typed = ["sweep=temperatures", "loss=triplet", f"hydra.sweep.dir={tmp_path}"]
    monkeypatch.setattr("sys.argv", ["train", *typed])
    with pytest.raises(SystemExit):
        entry.run("train", train.run_job)
    said = capsys.readouterr().err
    assert "error: sweep=temperatures varies loss.temperature, but loss.temperature is" in said


def test_a_job_records_the_command_of_its_run(tmp_path, monkeypatch):
    from types import SimpleNamespace

    source = SimpleNamespace(schema="file", path=CONF)
    source.provider = "main"
    runtime = SimpleNamespace(config_sources=[source], choices={"model": "cvse"}, cwd="here")
    monkeypatch.setattr(
        "itm.app.training_run.HydraConfig.get", lambda: SimpleNamespace(runtime=runtime)
    )
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(is_global_zero=True, strategy=strategy)
    training = SimpleNamespace(trainer=trainer, data=SimpleNamespace(fingerprint=dict))
    typed = ["seed=3", "sweep=seeds", "model=cvse"]
    record = begin_run(training, tmp_path, OmegaConf.create({"seed": 3, "resume": None}), typed, [])
    assert record["command"] == "python -m itm.train seed=3 model=cvse"
    kept = json.loads((tmp_path / "run.json").read_text())["configuration"]
    assert kept["config"]["seed"] == 3 and kept["runtime"] == {
        "choices": {"model": "cvse"}, "cwd": "here"
    }  # fmt: skip
