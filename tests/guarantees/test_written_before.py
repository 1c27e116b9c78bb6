"""Files that an earlier version wrote are read, and mean what they meant.

tests/fixtures/f0e1d91 holds saved folders, runs and indexes of commit f0e1d91, with the scores that
it computed; its README tells how they were made.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli import run
from goldens_path import read_npz

import itm
from itm.app.build import build_data
from itm.app.config import compose
from itm.matcher import Matcher
from itm.metrics import evaluate

FIXTURES = Path(__file__).parents[1] / "fixtures/f0e1d91"
EXPECTED = read_npz(FIXTURES / "expected.npz")
CAPTIONS = ["a red ball on a table", "two dogs run in the grass", "a small blue box"]
SHAPE = (12, 64)  # regions and width of the scenes' features
MODELS = sorted(path.name for path in (FIXTURES / "saved").iterdir())
RUNS = sorted(path.name for path in (FIXTURES / "run").iterdir())
INDEXES = sorted(path.name for path in (FIXTURES / "index").iterdir())


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_every_fixture_is_tested():
    assert len(MODELS) == 9 and RUNS == ["casc", "vsrn"] and INDEXES == ["scan_t2i", "vsrn"]
    assert set(EXPECTED) == {*MODELS, *(f"index_{name}" for name in INDEXES)}


@pytest.mark.parametrize("name", MODELS)
def test_saved_folders(name, tmp_path):
    folder = FIXTURES / "saved" / name
    features = np.random.default_rng(0).standard_normal((3, *SHAPE)).astype(np.float32)
    matcher = itm.load(folder)
    for read in (matcher, Matcher.from_pretrained(folder), type(matcher).from_pretrained(folder)):
        close(read.score(features, CAPTIONS), EXPECTED[name])
    again = matcher.save_pretrained(tmp_path)
    config = content(again / "config.json")
    checksums = {"config.json", "model.safetensors", "vocab.json"}  # new since
    assert set(config.pop("files")) == checksums
    before = content(folder / "config.json")
    before["arguments"].pop("concept_vectors", None)  # a file, whose numbers the weights hold
    assert config == before
    assert content(again / "vocab.json") == content(folder / "vocab.json")
    close(itm.load(again).score(features, CAPTIONS), EXPECTED[name])


@pytest.mark.parametrize("name", INDEXES)
def test_indexes(name, tmp_path):
    index = itm.Index.load(FIXTURES / "index" / name)
    for read in (index, itm.Index.load(index.save(tmp_path / "again"))):
        found = read.search("a red ball", top=4)
        close([hit.score for hit in found], EXPECTED[f"index_{name}"])
        assert {hit.item for hit in found} <= set(read.ids) and len(read.ids) == 6


@pytest.mark.parametrize("name", RUNS)
def test_checkpoints_of_runs(name, tmp_path, monkeypatch):
    """The best one reaches the results that were written beside it."""
    monkeypatch.setenv("ITM_CACHE", str(tmp_path))
    folder = FIXTURES / "run" / name
    overrides = json.loads((folder / "run.json").read_text())["overrides"]
    split = build_data(compose(overrides)).test_split
    results = json.loads((folder / "results.json").read_text())
    for path in (folder, folder / "checkpoints/best.ckpt", folder / "checkpoints/last.ckpt"):
        matcher = itm.load(path)
        scores = matcher.score(split.view(), split.captions)
        found = evaluate(scores, split.caption_image, protocol=split.protocol)
        assert np.isfinite(scores).all()
        if path.name != "last.ckpt":
            assert matcher.record == results
            for key, value in found.items():
                assert value == pytest.approx(results[f"test/{key}"], rel=1e-5), key


@pytest.mark.parametrize("name", RUNS)
def test_runs_are_resumed(name, tmp_path):
    """Two epochs of the earlier version and a third of this one."""
    folder = shutil.copytree(FIXTURES / "run" / name, tmp_path / name)
    before = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    curves = validations(folder)
    run("train", f"resume={name}", "max_epochs=3", cwd=tmp_path, ITM_CACHE=str(tmp_path / "cache"))
    after = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert (before["epoch"], after["epoch"]) == (1, 2)
    assert after["global_step"] == before["global_step"] * 3 // 2
    assert after["hyper_parameters"] == before["hyper_parameters"]
    assert {**after["itm"], "version": None} == {**before["itm"], "version": None}
    weights = after["state_dict"]
    assert any(not value.equal(weights[k]) for k, value in before["state_dict"].items())
    assert len(validations(folder)) == len(curves) + 1
    assert itm.load(folder).score(np.zeros((1, *SHAPE), np.float32), CAPTIONS).shape == (1, 3)


def content(file):
    """A JSON file without the version that wrote it."""
    return {**json.loads(file.read_text()), "version": None}


def validations(folder):
    """The rows of a run's curves that hold a validation."""
    with (folder / "csv/metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["val/rsum"]]
