"""A run's settings are read as they were written, and nothing in them is resolved."""

import pytest
from omegaconf import OmegaConf

from itm.runs.history import find_runs, read_settings


def test_settings_are_those_that_were_written(tmp_path):
    values = {
        "lr": 1e-5, "large": 1e20, "decay": 2.0, "name": "1e-5", "date": "2024-01-01", "off": "off",
        "flag": True, "none": None, "list": [1, "a"], "seed": "${other}", "out": "${hydra:runtime}",
    }  # fmt: skip
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.create({"group": values}), tmp_path / ".hydra/config.yaml")
    choices = {"model": "scan", "loss": "triplet", "text": None}
    hydra = OmegaConf.create({"hydra": {"runtime": {"choices": choices}}})
    OmegaConf.save(hydra, tmp_path / ".hydra/hydra.yaml")
    expected = {f"group.{key}": value for key, value in values.items()}
    expected |= {"model": "scan", "loss": "triplet", "group.list": (1, "a")}
    assert read_settings(tmp_path) == expected


@pytest.mark.parametrize("model", ["vsrn", "casc"])
def test_runs_of_earlier_versions_are_read(model, request):
    folder = request.config.rootpath / "tests/fixtures/f0e1d91/run" / model
    (run,), failed = find_runs([folder])
    assert not failed and run.settings["model"] == model and run.ranks is not None
    assert 0 < run.rsum <= 600
