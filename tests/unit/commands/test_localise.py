"""`itm.localise` names first what no other data could mend."""

import json

import numpy as np
import pytest

from itm import explain, localise, search
from itm.app import entry
from itm.matcher.saved import save
from itm.models import SCAN, VSEPP
from itm.text.vocabulary import Vocabulary

CAPTIONS = ["a red dog", "two cats"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A split without phrases, and a matcher that scores no regions."""
    np.save(tmp_path / "test_ims.npy", np.ones((2, 4, 8), np.float32))
    (tmp_path / "test_caps.txt").write_text("\n".join(CAPTIONS) + "\n")
    matcher = VSEPP(7, img_dim=8, word_dim=4, embed_dim=8)
    matcher.vocab = Vocabulary.build(CAPTIONS, 1)
    save(matcher, tmp_path / "vsepp")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # as the entry point does
    return tmp_path


@pytest.mark.parametrize(
    "options, message",
    [
        ((), "VSEPP compares whole images with whole sentences, so it scores no regions"),
        (("image=nowhere", "phrases=nowhere"), "VSEPP compares whole images"),
        (("context=word",), "context must be 'caption' or 'phrase', got 'word'"),
    ],
)
def test_a_matcher_without_regions_is_named_before_missing_phrases(
    options, message, folder, monkeypatch
):
    common = ["checkpoint=vsepp", "data=f30k", "data.root=.", "hydra.run.dir=out"]
    monkeypatch.setattr("sys.argv", ["itm.localise", *common, *options])
    with pytest.raises(ValueError, match=message):
        entry.call("localise", localise.command)


def test_generated_scenes_are_named_without_their_digest(folder, monkeypatch, capsys):
    np.save("test_boxes.npy", np.tile(np.float32([0, 0, 1, 1]), (2, 4, 1)))
    np.save("test_ims.npy", np.random.default_rng(0).random((2, 4, 8), np.float32))
    phrase = {"image": 0, "phrase": "a red dog", "boxes": [[0, 0, 1, 1]]}
    (folder / "phrases.jsonl").write_text(json.dumps(phrase) + "\n")
    scenes = folder / "scenes-0123456789ab"
    scenes.mkdir()
    for name in ("test_ims.npy", "test_caps.txt", "test_boxes.npy"):
        (folder / name).rename(scenes / name)
    vocab = Vocabulary.build(CAPTIONS, 1)
    matcher = SCAN(len(vocab), img_dim=8, word_dim=4, embed_dim=8)
    matcher.vocab = vocab
    save(matcher, folder / "scan")
    options = ["checkpoint=scan", "data=f30k", f"data.root={scenes}", "hydra.run.dir=out"]
    monkeypatch.setattr("sys.argv", ["itm.localise", *options, "phrases=phrases.jsonl"])
    entry.call("localise", localise.command)
    assert "SCAN, scenes test, overlap" in capsys.readouterr().out


def test_words_that_a_matcher_does_not_know_are_told(folder, monkeypatch, capsys):
    """Regions for a phrase of unknown words mean nothing; only `itm.search` had said so."""
    np.save("test_ims.npy", np.random.default_rng(0).random((2, 4, 8), np.float32))
    np.save("test_boxes.npy", np.tile(np.float32([0, 0, 1, 1]), (2, 4, 1)))
    phrases = [
        json.dumps({"image": i, "phrase": text, "boxes": [[0, 0, 1, 1]]})
        for i, text in enumerate(["a red dog", "der hund"])
    ]
    (folder / "phrases.jsonl").write_text("\n".join(phrases) + "\n")
    vocab = Vocabulary.build(CAPTIONS, 1)
    matcher = SCAN(len(vocab), img_dim=8, word_dim=4, embed_dim=8)
    matcher.vocab = vocab
    save(matcher, folder / "scan")
    common = ["data=f30k", "data.root=.", "hydra.run.dir=out", "phrases=phrases.jsonl"]
    monkeypatch.setattr("sys.argv", ["itm.localise", "checkpoint=scan", *common])
    entry.call("localise", localise.command)
    told = "40% of the words of the phrases of split test are unknown to the vocabulary"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("command", [localise, explain, search])
def test_one_matcher_is_not_a_list(command, folder, monkeypatch):
    name = command.__name__.rpartition(".")[2]
    options = ["checkpoint=[vsepp,vsepp]", "data=f30k", "data.root=."]
    monkeypatch.setattr("sys.argv", [name, *options])
    with pytest.raises(
        ValueError, match=r"checkpoint=\[vsepp,vsepp\] must be one path: only itm.ev"
    ):
        entry.call(name, command.command)
