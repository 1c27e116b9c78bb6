"""`rerank=` of itm.evaluate adds a table beside the plain numbers and refuses other names."""

import itertools
import json

import numpy as np
import pytest
import torch

from itm import evaluate, load
from itm.app import entry
from itm.app.config import compose
from itm.app.evaluation_options import check_options
from itm.app.splits import find_bank
from itm.data.layout import read_split
from itm.metrics import evaluate as recalls
from itm.metrics.rerank import Bank, evaluate_reranked
from itm.models import VSEPP
from itm.text.vocabulary import SPECIALS, Vocabulary


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "test_ims.npy", rng.normal(size=(20, 4, 8)).astype(np.float32))
    lines = [f"image {i} caption {k}" for i in range(20) for k in range(5)]
    (tmp_path / "test_caps.txt").write_text("\n".join(lines) + "\n")
    np.save(tmp_path / "scores.npy", rng.uniform(-1, 1, (20, 100)))
    return tmp_path


def test_the_rows_stand_beside_the_plain_ones(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    options = ["data=flickr8k", "data.root=.", "plot=false", "hydra.run.dir=out"]
    chosen = ["rerank=[sinkhorn,mutual_rank]", "rerank_beta=5", "similarity=scores.npy"]
    monkeypatch.setattr("sys.argv", ["itm.evaluate", *chosen, *options])
    entry.call("evaluate", evaluate.command)
    report = json.loads((folder / "out/report.json").read_text())
    scores, owner = np.load("scores.npy"), np.arange(100) // 5
    assert list(report["results"]) == ["scores.npy"]
    assert report["results"]["scores.npy"]["rsum"] == recalls(scores, owner)["rsum"]
    for method in ("sinkhorn", "mutual_rank"):
        expected = evaluate_reranked(scores, owner, "full", method, 5.0)
        assert report["reranked"][f"scores.npy ({method})"] == pytest.approx(expected)
    shown = capsys.readouterr().out
    assert shown.index("scores.npy ") < shown.index("re-ranked with all test queries at hand")


def write(folder, split, images, seed):
    rng = np.random.default_rng(seed)
    np.save(folder / f"{split}_ims.npy", rng.normal(size=(images, 4, 8)).astype(np.float32))
    lines = [f"{split} image {i} caption {k}" for i in range(images) for k in range(5)]
    (folder / f"{split}_caps.txt").write_text("\n".join(lines) + "\n")


def test_a_bank_of_another_split(folder, monkeypatch, capsys):
    write(folder, "train", 9, 1)
    write(folder, "dev", 6, 2)
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        matcher = VSEPP(12, 8, 4, 8)
        words = ["image", "caption", "train", "test", "1", "2", "3", "4"]
        matcher.vocab = Vocabulary([*SPECIALS, *words])
        matcher.save_pretrained(folder / f"m{seed}")
    monkeypatch.chdir(folder)
    options = ["data=flickr8k", "data.root=.", "plot=false", "hydra.run.dir=out"]
    chosen = [
        "checkpoint=[m0,m1,m2]",
        "pairs=true",
        "rerank=[qb_norm,inverted_softmax]",
        "rerank_beta=5",
    ]
    bank = ["rerank_bank=train", "rerank_bank_images=7"]
    monkeypatch.setattr("sys.argv", ["itm.evaluate", *chosen, *bank, *options])
    entry.call("evaluate", evaluate.command)
    report = json.loads((folder / "out/report.json").read_text())
    test, train = read_split(folder, "test"), read_split(folder, "train").head(7)
    matchers = {name: load(folder / name) for name in ("m0", "m1", "m2")}
    scores = {x: m.score(test.view(), test.captions) for x, m in matchers.items()}
    banks = {
        x: Bank(m.score(train.view(), test.captions), m.score(test.view(), train.captions))
        for x, m in matchers.items()
    }
    for size in (2, 3):
        for members in itertools.combinations(matchers, size):
            name = " + ".join(members) if size == 2 else "ensemble of 3"
            scores[name] = np.mean([scores[x] for x in members], 0)
            sides = zip(*(banks[x] for x in members), strict=True)
            banks[name] = Bank(*(np.mean(side, 0) for side in sides))
    assert len(report["reranked"]) == 14
    for name, method in itertools.product(scores, ("qb_norm", "inverted_softmax")):
        expected = evaluate_reranked(
            scores[name], np.arange(100) // 5, "full", method, 5.0, banks[name]
        )
        assert report["reranked"][f"{name} ({method}, bank)"] == pytest.approx(expected)
        assert report["results"][name]["rsum"] == recalls(scores[name], np.arange(100) // 5)["rsum"]
    needs = "a bank of queries: 7 images and 35 captions of split train"
    assert report["reranked_with"] == needs
    assert needs in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["rerank=sinkhorn", "rerank_bank=train"], "sinkhorn reads all test queries and no bank"),
        (
            ["rerank=qb_norm", "rerank_bank=dev"],
            "rerank_bank must be 'train' or 'val', got 'dev'",
        ),
        (["rerank_bank=val"], "rerank_bank=val needs rerank=qb_norm or"),
        (["rerank=qb_norm", "rerank_bank=val"], "so it needs checkpoint= and no transductive="),
    ],
)
def test_a_bank_that_nothing_can_use_is_refused(folder, options, message):
    cfg = compose(["data=flickr8k", "data.root=.", "similarity=scores.npy", *options], "evaluate")
    with pytest.raises(ValueError, match=message):
        check_options(cfg, read_split(folder, "test"))


def test_the_split_that_is_scored_is_no_bank(folder):
    write(folder, "dev", 6, 2)
    options = ["data=flickr8k", "data.root=.", "data.split=dev", "rerank_bank=val"]
    with pytest.raises(ValueError, match="rerank_bank=val is split dev, which is scored"):
        find_bank(compose(options, "evaluate"), read_split(folder, "dev"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("rerank=softmax", "rerank must be 'inverted_softmax', .* got 'softmax'"),
        ("rerank_beta=0", "rerank_beta=0 must be above 0; 20 suits cosines"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_scored(folder, option, message):
    cfg = compose(["data=flickr8k", "data.root=.", "similarity=scores.npy", option], "evaluate")
    with pytest.raises(ValueError, match=message):
        check_options(cfg, read_split(folder, "test"))
