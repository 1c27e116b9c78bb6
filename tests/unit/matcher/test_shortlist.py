"""A shortlist scores what cheap scores put first, with the scores of the full matrix."""

import json
import re

import numpy as np
import pytest
import torch
from small_models import MODELS, WORDS

from itm import evaluate
from itm.app import entry
from itm.app.config import compose
from itm.app.evaluation_options import check_options
from itm.matcher.inputs import caption_batches, image_batches
from itm.matcher.scoring import encode, score_encoded
from itm.matcher.shortlist import cosines, score_shortlist, shortlisted

SENTENCES = [
    "a dog runs", "cat", "red red dog", "a red cat runs", "dog", "runs a cat", "red", "a a dog",
]  # fmt: skip


def encoded(name, images=6, dtype=torch.float32):
    torch.manual_seed(0)
    matcher = MODELS[name]().to(dtype)
    matcher.vocab = WORDS
    x = np.random.default_rng(0).normal(size=(images, 3, 6)).astype(np.float32)
    counts = (1, 2, 3, 1, 2, 2)  # the second chunk has fewer at most
    x = x if matcher.num_regions else [row[:n] for n, row in zip(counts, x, strict=True)]
    sides = image_batches(x, 4), caption_batches(matcher, SENTENCES, 3)
    return matcher, *(encode(matcher, side) for side in sides)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["scan_t2i", "scan_i2t", "casc", "chan", "sgr", "saf"])
def test_a_shortlist_of_all_gives_the_full_matrix(name, dtype):
    matcher, images, captions = encoded(name, dtype=dtype)
    full = score_encoded(matcher, images, captions)
    out = np.empty_like(full)
    assert score_shortlist(matcher, images, captions, 99, out).all()
    np.testing.assert_allclose(out, full, rtol=0, atol=1e-6)
    assert (out.argsort(1) == full.argsort(1)).all()


@pytest.mark.parametrize("name", ["casc", "two_branch_similarity"])
def test_chosen_pairs_have_their_scores_and_the_others_their_order_behind_them(name):
    matcher, images, captions = encoded(name)
    full, out = score_encoded(matcher, images, captions), np.empty((6, 8), np.float32)
    seen = []
    chosen = score_shortlist(
        matcher, images, captions, 2, out, watch=lambda chunks: seen.extend(chunks) or chunks
    )
    assert len(seen) == len(captions)
    assert 0 < chosen.sum() < chosen.size
    np.testing.assert_allclose(out[chosen], full[chosen], rtol=0, atol=1e-6)
    assert out[~chosen].max() <= out[chosen].min() - 1
    near = cosines(images, captions, out)
    order = near[~chosen].argsort()
    assert (np.diff(out[~chosen][order]) >= 0).all()
    for i in range(6):  # within a shortlist the order is that of the full matrix
        assert (out[i, chosen[i]].argsort() == full[i, chosen[i]].argsort()).all()


def test_the_best_of_rows_and_of_columns_are_chosen():
    near = np.random.default_rng(0).normal(size=(700, 40)).astype(np.float32)
    chosen = shortlisted(near, 3)
    expected = np.zeros(near.shape, bool)
    expected[np.arange(700)[:, None], near.argsort(1)[:, -3:]] = True
    expected[near.argsort(0)[-3:], np.arange(40)] = True
    assert (chosen == expected).all()


def test_it_is_refused_where_it_saves_nothing():
    matcher, images, captions = encoded("vsepp")
    with pytest.raises(ValueError, match="VSEPP is a product of vectors"):
        score_shortlist(matcher, images, captions, 2, np.empty((6, 8), np.float32))
    matcher, images, captions = encoded("casc")
    with pytest.raises(ValueError, match="shortlist=0 must be at least 1"):
        score_shortlist(matcher, images, captions, 0, np.empty((6, 8), np.float32))


@pytest.mark.parametrize(
    "options",
    [["checkpoint=[A,B]"], ["similarity=A.npy"], ["checkpoint=A", "rerank=sinkhorn"]],
)
def test_options_that_need_every_score_are_refused(options):
    class Split:
        protocol, num_images, captions = "full", 4, ["a"] * 20

    cfg = compose(["shortlist=3", *options], name="evaluate")
    with pytest.raises(ValueError, match="shortlist=3 leaves most pairs"):
        check_options(cfg, Split())


def test_itm_evaluate_says_what_the_shortlist_leaves_out(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "test_ims.npy", rng.normal(size=(6, 3, 6)).astype(np.float32))
    lines = [f"a {'red ' * (i % 3)}dog runs {k}" for i in range(6) for k in range(5)]
    (tmp_path / "test_caps.txt").write_text("\n".join(lines) + "\n")
    matcher = MODELS["casc"]()
    matcher.vocab = WORDS
    matcher.save_pretrained(tmp_path / "saved")
    monkeypatch.chdir(tmp_path)
    found = {}
    for folder, options in {"all": [], "some": ["shortlist=2"], "most": ["shortlist=99"]}.items():
        given = ["checkpoint=saved", "data=flickr8k", "data.root=.", "plot=false", *options]
        monkeypatch.setattr("sys.argv", ["itm.evaluate", *given, f"hydra.run.dir={folder}"])
        entry.call("evaluate", evaluate.command)
        found[folder] = json.loads((tmp_path / folder / "report.json").read_text())
    assert found["most"]["results"] == found["all"]["results"]
    assert found["some"]["shortlist"] == 2 and "shortlist" not in found["all"]
    shown = capsys.readouterr().out
    assert "shortlist=99: 100.0% of the pairs are scored, among them 100.0%" in shown
    share = re.search(
        r"shortlist=2: ([\d.]+)% of the pairs are scored, among them ([\d.]+)%", shown
    )
    assert 100 * 2 / 6 <= float(share[1]) < 100
