"""`rerank=` of itm.evaluate adds a table beside the plain numbers and refuses other names."""

import json

import numpy as np
import pytest

from itm import evaluate
from itm.app.config import compose
from itm.app.evaluation import check_options
from itm.data.layout import read_split
from itm.metrics import evaluate as recalls
from itm.metrics.rerank import evaluate_reranked


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
    evaluate._main()
    report = json.loads((folder / "out/report.json").read_text())
    scores, owner = np.load("scores.npy"), np.arange(100) // 5
    assert list(report["results"]) == ["scores.npy"]
    assert report["results"]["scores.npy"]["rsum"] == recalls(scores, owner)["rsum"]
    for method in ("sinkhorn", "mutual_rank"):
        expected = evaluate_reranked(scores, owner, "full", method, 5.0)
        assert report["reranked"][f"scores.npy ({method})"] == pytest.approx(expected)
    shown = capsys.readouterr().out
    assert shown.index("scores.npy ") < shown.index("re-ranked with all test queries at hand")


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
