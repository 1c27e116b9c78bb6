"""A run's settings are read as they were written, and nothing in them is resolved."""

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from itm.runs.history import find_runs, read_settings
from itm.runs.plain_files import CONFIGURATION, read_hydra, read_yaml
from itm.runs.record import write_json, write_ranks, write_results


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


def test_flipped_bits_of_curves_and_ranks_are_noticed(tmp_path):
    run = tmp_path / "run"
    (run / "csv").mkdir(parents=True)
    (run / "csv" / "metrics.csv").write_text("step,val/rsum\n1,250.5\n2,300\n")
    write_ranks(run / "ranks.npz", *[np.arange(3)] * 3)
    write_json(run / "run.json", {"command": "x", "started": "now"})
    write_results(run, {"test/rsum": 300.0, "command": "x", "started": "now"})
    assert find_runs([run])[0][0].curves["val/rsum"][1].tolist() == [250.5, 300]
    for name in ("csv/metrics.csv", "ranks.npz"):
        whole = (run / name).read_bytes()
        for place in range(len(whole)):
            changed = bytearray(whole)
            changed[place] ^= 1 << place % 8
            (run / name).write_bytes(changed)
            with pytest.raises(FileNotFoundError, match="damaged: .*its checksum differs"):
                find_runs([run])
        (run / name).unlink()  # curves and ranks may be deleted, to save space
        assert find_runs([run])[0][0].rsum == 300


def test_the_configuration_is_read_from_the_sealed_record(tmp_path):
    """Hydra's own record has no checksum, and every attempt to resume rewrites it."""
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text("loss: {margin: 0.2}\n")
    (tmp_path / ".hydra/hydra.yaml").write_text("hydra: {runtime: {choices: {model: scan}}}\n")
    write_json(tmp_path / "run.json", {"command": "x", CONFIGURATION: read_hydra(tmp_path)})
    wanted = {"model": "scan", "loss.margin": 0.2}
    assert read_settings(tmp_path) == wanted
    (tmp_path / ".hydra/config.yaml").write_text("loss: {margin: 0.3}\n")
    (tmp_path / ".hydra/hydra.yaml").write_bytes(b"\xff")
    assert read_settings(tmp_path) == wanted
    record = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(record.replace("0.2", "0.3"))
    with pytest.raises(ValueError, match=r"run\.json is damaged or was edited"):
        read_settings(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "a: &a [1]\nb: [*a]\n", "a: [1"])
def test_yaml_that_no_run_wrote_is_refused(text, tmp_path):
    """Deep nesting would overflow the stack of a parser in C."""
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"settings\.yaml is damaged"):
        read_yaml(tmp_path / "settings.yaml")


def test_yaml_is_read_as_by_the_parser_in_python(request):
    files = sorted((request.config.rootpath / "conf").rglob("*.yaml"))
    assert len(files) > 20
    for file in files:
        assert repr(read_yaml(file)) == repr(yaml.load(file.read_text("utf-8"), yaml.SafeLoader))
