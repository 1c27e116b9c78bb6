import contextlib
import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import toy
from hostile import edit

import itm
from itm.matcher.hub import FILES, public
from itm.matcher.matcher import Matcher
from itm.matcher.model_card import make_card
from itm.models import SCAN, VSRN
from itm.text.vocabulary import Vocabulary

WORDS = ["a dog runs", "a red ball", "two cats"]
RECORD = {
    "test/rsum": 301.5,
    **{f"test/{way}_r{k}": 50.25 for way in ("i2t", "t2i") for k in (1, 5, 10)},
    "split": "test",
    "root": "/home/someone/data/f30k",
    "protocol": "full",
    "images": 1000,
    "command": "python -m itm.train model=scan data.root=/home/someone/data/f30k init=~/old/run "
    "seed=1",
    "versions": {"torch": "2.13.0"},
}


def make(kind=SCAN, **arguments):
    vocab = Vocabulary.build(WORDS, 1)
    matcher = kind(vocab_size=len(vocab), img_dim=6, **arguments)
    matcher.vocab = vocab
    return matcher.eval()


def small():
    matcher = make(word_dim=5, embed_dim=8)
    matcher.record = dict(RECORD)
    return matcher


def scores(matcher):
    return matcher.score(np.random.default_rng(0).normal(size=(3, 4, 6)), WORDS)


def test_a_folder_brings_the_matcher_back(tmp_path):
    matcher = small()
    folder = matcher.save_pretrained(tmp_path / "a")
    assert {p.name for p in folder.iterdir()} == {*FILES, "README.md"}
    for again in (
        itm.load(folder),
        Matcher.from_pretrained(folder),
        SCAN.from_pretrained(str(folder)),
    ):
        assert type(again) is SCAN and not again.training
        np.testing.assert_array_equal(scores(again), scores(matcher))
        assert again.record["test/rsum"] == 301.5
    assert (again.save_pretrained(tmp_path / "b") / "results.json").read_text() == (
        folder / "results.json"
    ).read_text()


def test_the_card_tells_results_and_command_but_no_folders_of_this_computer(tmp_path):
    folder = small().save_pretrained(tmp_path)
    card = (folder / "README.md").read_text()
    assert "301.5" in card and "test of f30k, 1000 images, protocol full" in card
    assert "python -m itm.train model=scan data.root=f30k init=run seed=1" in card
    assert "torch 2.13.0" in card and "6 wide" in card
    assert huggingface_hub.ModelCard(card).data.tags[-1] == "scan"
    assert all(
        "someone" not in p.read_text() for p in folder.iterdir() if p.suffix in (".md", ".json")
    )


def test_paths_are_shortened_wherever_they_stand():
    given = "x 'data.root=/a/b c=1' y=[/q/r,~/s/t/] loss.margin=0.1/2 http://h/x"
    assert public({"command": given})["command"] == (
        "x 'data.root=b c=1' y=[r,t] loss.margin=0.1/2 http://h/x"
    )


@pytest.mark.parametrize(
    ("given", "short"),
    [
        (r"data.root=C:\Users\anna\f30k x", "data.root=f30k x"),
        ("data.root=C:/Users/anna/f30k", "data.root=f30k"),
        (r"'\\server\anna\x\' y", "'x' y"),
        ("../../../home/anna/x ./a/b", "x b"),
        ("file:///home/anna/x", "x"),
        ("/home/john smith/data", "data"),
        ("/home/anna/f30k//", "f30k"),
        ("uri=sqlite:////home/anna/ml.db", "uri=sqlite:ml.db"),
        (r"C:\Users\John Smith\runs\x", "x"),
        ("itm.train 'data.root=/home/john smith/f30k' seed=1", "itm.train 'data.root=f30k' seed=1"),
        ("data={root:/home/anna/x,limit:2}", "data={root:x,limit:2}"),
        ("~trainer.logger a=~anna/x", "~trainer.logger a=x"),
        ("s3://a/b 1/2 and/or C: d b=/", "s3://a/b 1/2 and/or C: d b=/"),
    ],
)
def test_paths_of_every_kind_are_shortened(given, short):
    nested = {"inputs": [given, 1, {"a": given}], "none": None}
    assert public({"command": given, **nested}) == {
        "command": short, "inputs": [short, 1, {"a": short}], "none": None,
    }  # fmt: skip


@pytest.mark.parametrize("record", ["{", "[]", '{"test/rsum": [], "command": 3, "root": null}'])
def test_a_broken_record_is_no_obstacle(tmp_path, record):
    small().save_pretrained(tmp_path)
    (tmp_path / "results.json").write_text(record)
    with pytest.warns(UserWarning, match="without its results: .*results.json is damaged"):
        matcher = itm.load(tmp_path)
    assert "## Results" not in (matcher.save_pretrained(tmp_path) / "README.md").read_text()


def test_a_matcher_without_record_has_a_card_too(tmp_path):
    folder = make(word_dim=5, embed_dim=8).save_pretrained(tmp_path)
    assert not (folder / "results.json").exists()
    assert "## Results" not in (folder / "README.md").read_text()
    assert make_card(small(), {}) == (folder / "README.md").read_text()
    assert small().save_pretrained(tmp_path, card="mine") == tmp_path
    assert (tmp_path / "README.md").read_text() == "mine"


class Hub:
    """Stands for HfApi: keeps what is uploaded."""

    def __init__(self, store, token=None):
        self.store, self.calls, self.token = store, [], token

    def create_repo(self, repo_id, private=None, exist_ok=False):
        self.calls.append(("create", repo_id, private, exist_ok))

    def create_branch(self, repo_id, branch, exist_ok=False):
        self.calls.append(("branch", repo_id, branch, exist_ok))

    def upload_folder(self, repo_id, folder_path, revision, delete_patterns, commit_message):
        self.calls.append(("upload", repo_id, revision, commit_message))
        for name in delete_patterns:
            (self.store / name).unlink(missing_ok=True)
        for path in Path(folder_path).iterdir():
            (self.store / path.name).write_bytes(path.read_bytes())
        return "https://hub/commit/1"


def test_to_the_hub_and_back(tmp_path, monkeypatch):
    hubs = []

    def api(token=None):
        hubs.append(Hub(tmp_path, token))
        return hubs[-1]

    def download(repo_id, revision=None, token=None, allow_patterns=None):
        assert (repo_id, revision, token) == ("me/scan", "v1", "secret") and allow_patterns == FILES
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    matcher = small()
    url = matcher.push_to_hub("me/scan", private=True, revision="v1", token="secret")
    assert url == "https://hub/commit/1" and hubs[0].token == "secret"
    assert hubs[0].calls == [
        ("create", "me/scan", True, True),
        ("branch", "me/scan", "v1", True),
        ("upload", "me/scan", "v1", "Upload SCAN"),
    ]
    again = Matcher.from_pretrained("me/scan", revision="v1", token="secret")
    np.testing.assert_array_equal(scores(again), scores(matcher))
    assert again.record["test/rsum"] == 301.5
    matcher.record = {}  # a second upload leaves nothing of the first
    (tmp_path / "notes.txt").touch()
    matcher.push_to_hub("me/scan", revision="v1")
    again = Matcher.from_pretrained("me/scan", revision="v1", token="secret")
    assert again.record == {} and (tmp_path / "notes.txt").is_file()


def test_another_kind_is_refused(tmp_path):
    small().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a SCAN, not a VSRN"):
        VSRN.from_pretrained(tmp_path)


def test_a_class_of_ones_own_reads_what_it_saved(tmp_path):
    matcher = make(toy.MeanMatcher, embed_dim=8)
    matcher.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not a model of this library"):
        Matcher.from_pretrained(tmp_path)
    again = toy.MeanMatcher.from_pretrained(tmp_path)
    assert type(again) is toy.MeanMatcher
    np.testing.assert_array_equal(scores(again), scores(matcher))
    assert type(itm.load(tmp_path, model_class=toy.MeanMatcher)) is toy.MeanMatcher


@pytest.mark.parametrize("name", ["os.system", "itm.app.entry.run", "../SCAN", "Matcher", ""])
def test_a_folder_names_no_code(tmp_path, name):
    small().save_pretrained(tmp_path)
    edit(tmp_path / "config.json", **{"class": name})
    with pytest.raises(ValueError, match="not a model of this library"):
        Matcher.from_pretrained(tmp_path)


def test_a_target_among_the_arguments_builds_nothing(tmp_path):
    small().save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    trap = {"_target_": "pathlib.Path.touch", "_args_": [str(tmp_path / "made")]}
    config["arguments"]["text"] = {"name": "gru", **trap}
    edit(tmp_path / "m/config.json", arguments=config["arguments"])
    with contextlib.suppress(ValueError):  # read as a name that means nothing, or refused
        Matcher.from_pretrained(tmp_path / "m")
    assert not (tmp_path / "made").exists()


def test_nothing_there_says_how_to_read_the_hub(tmp_path):
    with pytest.raises(FileNotFoundError, match="from_pretrained"):
        itm.load(tmp_path / "user" / "name")


def test_a_checkpoint_of_a_run_brings_its_results(tmp_path):
    matcher = small()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    checkpoint = {"state_dict": matcher.state_dict()}
    matcher.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "best.ckpt")
    torch.save(checkpoint, folder / "last.ckpt")
    (tmp_path / "results.json").write_text(json.dumps(RECORD))
    assert itm.load(tmp_path).record == itm.load(folder / "best.ckpt").record == RECORD
    assert itm.load(folder / "last.ckpt").record == {}  # the results are of the best


def test_a_checkpoint_that_was_copied_takes_no_results_of_its_new_neighbours(tmp_path, monkeypatch):
    matcher, folder = small(), tmp_path / "copied"
    folder.mkdir()
    checkpoint = {"state_dict": matcher.state_dict()}
    matcher.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "best.ckpt")
    (tmp_path / "results.json").write_text(json.dumps({"test/rsum": 1.0}))
    assert itm.load(folder).record == itm.load(folder / "best.ckpt").record == {}
    (folder / "results.json").write_text(json.dumps(RECORD))
    assert itm.load(folder).record == itm.load(folder / "best.ckpt").record == RECORD
    run = folder.rename(tmp_path / "checkpoints")
    monkeypatch.chdir(run)  # the path of a run's file may be relative
    assert itm.load("best.ckpt").record == {"test/rsum": 1.0}


def test_a_file_lost_from_a_saved_folder_is_noticed(tmp_path):
    folder = small().save_pretrained(tmp_path / "saved")
    (folder / "vocab.json").unlink()
    with pytest.raises(ValueError, match="vocab.json is missing"):
        itm.load(folder)


def test_results_of_other_weights_are_left_out(tmp_path, capsys):
    """After further training, or other weights, the loaded results and command are not true."""
    small().save_pretrained(tmp_path / "a")
    loaded = itm.load(tmp_path / "a")
    loaded.double().float().bfloat16().save_pretrained(tmp_path / "same")
    assert json.loads((tmp_path / "same/results.json").read_text())["test/rsum"] == 301.5
    loaded = itm.load(tmp_path / "a")
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.mul_(1.001)
    loaded.save_pretrained(tmp_path / "other")
    assert "results of the loaded matcher are left out" in capsys.readouterr().out
    assert not (tmp_path / "other/results.json").exists()
    assert "301.5" not in (tmp_path / "other/README.md").read_text()
