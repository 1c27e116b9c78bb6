"""A matcher knows what it was trained on, wherever it goes, and evaluations say what follows."""

import json
import shutil
import warnings
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

import itm
from itm import evaluate
from itm.app import entry
from itm.checkpoints.initialise import start_from
from itm.data import RegionDataModule
from itm.data.origin import SETTINGS
from itm.losses import Triplet
from itm.models import VSEPP

MADE = {**dict.fromkeys(SETTINGS), "backbone": "net", "size": 224}


def write_corpus(folder, first=0):
    """Write three splits of eight images; `first` is the number of the first picture."""
    folder.mkdir()
    rng = np.random.default_rng(first)
    for split in ("train", "dev", "test"):
        np.save(folder / f"{split}_ims.npy", rng.normal(size=(8, 2, 6)).astype(np.float32))
        lines = [f"the dog {i} of {first} {word}" for i in range(8) for word in ("runs", "sits")]
        (folder / f"{split}_caps.txt").write_text("\n".join(lines) + "\n")
        first += 8
    return folder


def data_of(folder):
    return RegionDataModule(folder, batch_size=4, min_count=1, captions_per_image=2)


def trainer(folder, **options):
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, enable_checkpointing=False, default_root_dir=folder, **options,
    )  # fmt: skip


def matcher_of(folder):
    data = data_of(folder)
    data.setup()
    torch.manual_seed(0)
    sizes = {"img_dim": 6, "word_dim": 4, "embed_dim": 8}
    make = partial(torch.optim.Adam, lr=1e-3)
    return VSEPP(len(data.vocabulary), **sizes, loss=Triplet(), optimizer=make)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A corpus, the folder of a saved matcher and the checkpoint that it was trained to."""
    folder = tmp_path_factory.mktemp("trained")
    write_corpus(folder / "data")
    matcher, fit = matcher_of(folder / "data"), trainer(folder, max_epochs=1)
    fit.fit(matcher, datamodule=data_of(folder / "data"))
    fit.save_checkpoint(folder / "last.ckpt")
    matcher.save_pretrained(folder / "saved")
    return folder


def redraw(trained, folder):
    """Copy the corpus with half of the training images in the test."""
    shutil.copytree(trained / "data", folder)
    lines = (folder / "train_caps.txt").read_text().splitlines()[:8]
    lines += (folder / "test_caps.txt").read_text().splitlines()[8:]
    (folder / "test_caps.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("source", ["saved", "last.ckpt"])
def test_a_test_after_the_splits_were_drawn_again_names_the_images(
    trained, source, tmp_path, capsys
):
    matcher = itm.load(trained / source)
    (origin,) = matcher.trained_on
    assert origin["of"] == 8
    trainer(tmp_path).test(matcher, datamodule=data_of(trained / "data"), verbose=False)
    assert "trained on" not in capsys.readouterr().out
    redrawn = redraw(trained, tmp_path / "redrawn")
    trainer(tmp_path).test(matcher, datamodule=data_of(redrawn), verbose=False)
    assert "4 of the 8 images of test have the captions of images" in capsys.readouterr().out


def test_the_command_says_so_unless_the_training_split_is_asked_for(
    trained, tmp_path, monkeypatch, capsys
):
    root = redraw(trained, tmp_path / "redrawn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    common = ["data=flickr8k", f"data.root={root}", "plot=false"]

    def run(out, *options):
        given = [*common, f"checkpoint={trained / 'saved'}", f"hydra.run.dir={out}", *options]
        monkeypatch.setattr("sys.argv", ["itm.evaluate", *given])
        entry.call("evaluate", evaluate.command)
        return capsys.readouterr().out

    assert "warning: 4 of the 8 images of test" in run("a")
    assert "trained on" not in run("b", "data.split=train")


def test_another_training_is_added_and_a_resumed_one_is_not(trained, tmp_path):
    other = write_corpus(tmp_path / "other", first=100)
    vocabulary = itm.load(trained / "saved").vocab
    vocabulary.save(tmp_path / "vocab.json")
    torch.manual_seed(0)
    sizes = {"img_dim": 6, "word_dim": 4, "embed_dim": 8}
    make = partial(torch.optim.Adam, lr=1e-3)
    matcher = VSEPP(len(vocabulary), **sizes, loss=Triplet(), optimizer=make)
    start_from(matcher, str(trained / "saved"))
    data = data_of(other)
    data.vocab, data.max_unknown = str(tmp_path / "vocab.json"), 1.0
    trainer(tmp_path, max_epochs=1).fit(matcher, datamodule=data)
    assert len(matcher.trained_on) == 2
    again = matcher_of(trained / "data")
    trainer(tmp_path, max_epochs=2).fit(
        again, datamodule=data_of(trained / "data"), ckpt_path=trained / "last.ckpt"
    )
    assert again.trained_on == itm.load(trained / "saved").trained_on
    trainer(tmp_path, max_epochs=1).fit(again, datamodule=data_of(trained / "data"))
    assert len(again.trained_on) == 1  # the same data


def test_features_of_other_settings_are_named(trained, tmp_path):
    root = shutil.copytree(trained / "data", tmp_path / "data")
    (root / "extract.json").write_text(json.dumps({"settings": MADE}))
    matcher, data = matcher_of(root), data_of(root)
    trainer(tmp_path, max_epochs=1).fit(matcher, datamodule=data)
    view, captions = data.test_split.view(), data.test_split.captions
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matcher.score(view, captions)
    (root / "extract.json").write_text(json.dumps({"settings": {**MADE, "size": 384}}))
    with pytest.warns(UserWarning, match="size=384 instead of 224"):
        matcher.score(view, captions)


def test_a_damaged_origin_is_refused_on_loading(trained, tmp_path):
    folder = shutil.copytree(trained / "saved", tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    config["trained_on"] = [{"images": 3}]
    del config["files"]["config.json"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="damaged"):
        itm.load(folder)
