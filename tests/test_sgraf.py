import json

import numpy as np
import pytest
import torch

from goldens_path import case
from itm.layout import read_split
from itm.losses import Triplet
from itm.models import SGRAF
from itm.published import from_published, save_published

CASES = [
    "sgr",
    "saf",
    "sgr_coco",
    "saf_coco",
    "sgr_step1_unigru_sumloss",
    "saf_unigru_nonorm_2layer",
]


def load(name, checkpoint="checkpoint.pth.tar", loss=None):
    folder = case(f"sgraf/{name}")
    matcher = from_published(folder / checkpoint, vocab=folder / "vocab.json", loss=loss)
    split = read_split(next((folder / "data").iterdir()), "test")
    return matcher, split, np.load(folder / "expected.npz")


@pytest.mark.parametrize("name", CASES)
def test_scores_equal_the_original(name):
    matcher, split, expected = load(name)
    scores = matcher.score(split.view(), split.captions)
    np.testing.assert_allclose(scores, expected["sims"], atol=5e-6)


def test_the_ensemble_is_the_mean():
    first, split, expected = load("ensemble_sgr_saf")
    second, _, _ = load("ensemble_sgr_saf", "checkpoint2.pth.tar")
    scores = (m.score(split.view(), split.captions) for m in (first, second))
    np.testing.assert_allclose(sum(scores) / 2, expected["sims"], atol=5e-6)


@pytest.mark.parametrize("name", CASES)
def test_published_round_trip(name, tmp_path):
    matcher, split, _ = load(name)
    save_published(matcher, tmp_path / "again.pth.tar")
    again = from_published(tmp_path / "again.pth.tar", vocab=matcher.vocab)
    a, b = (m.score(split.view(), split.captions[:7]) for m in (matcher, again))
    np.testing.assert_allclose(a, b, atol=1e-6)


def batch(matcher, split, expected):
    """The fixture's batch, in its order."""
    captions = expected["batch_captions"].tolist()
    images = split.images(expected["batch_images"])
    ids = expected["batch_images"].tolist()
    return matcher.pairs(images, [split.captions[i] for i in captions], ids=ids)


@pytest.mark.parametrize("name", CASES)
def test_five_steps_equal_the_original(name):
    options = json.loads((case(f"sgraf/{name}") / "options.json").read_text())
    negatives = "hardest" if options["max_violation"] else "all"
    matcher, split, expected = load(name, loss=Triplet(options["margin"], negatives))
    pairs = batch(matcher, split, expected)
    evaluated = matcher.losses(pairs)["total"].item()
    np.testing.assert_allclose(evaluated, expected["loss_eval"], rtol=1e-5)
    matcher.train()
    for module in matcher.modules():  # the fixtures were made without dropout
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.Adam(matcher.parameters(), lr=options["learning_rate"])
    losses = []
    for _ in range(5):
        loss = matcher.losses(pairs)["total"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(matcher.parameters(), options["grad_clip"])
        optimizer.step()
        losses.append(float(loss.detach()))
    np.testing.assert_allclose(losses, expected["losses"], rtol=2e-5)


@pytest.mark.parametrize("module", ["SGR", "SAF"])
def test_padding_and_the_batch_change_nothing(module):
    torch.manual_seed(0)
    matcher = SGRAF(30, 8, module, 5, 6, 16, 12).eval()
    from test_text import captions_of

    captions = captions_of([4, 9, 2])
    images = torch.randn(3, 5, 8)
    from itm.batch import Images

    def score(rows, caption):
        picked = Images(images[rows], torch.ones(len(rows), 5, dtype=torch.bool), torch.arange(3))
        return matcher(picked, caption)

    with torch.no_grad():
        whole = score([0, 1, 2], captions)
        for c, n in enumerate(captions.lengths):
            alone = captions._replace(tokens=captions.tokens[c : c + 1, :n], lengths=(n,))
            torch.testing.assert_close(score([1], alone)[0, 0], whole[1, c], atol=1e-6, rtol=0)


def test_another_number_of_regions_is_an_error():
    matcher, split, _ = load("sgr")
    with pytest.raises(ValueError, match="36"):
        matcher.score(split.images(np.arange(2))[:, :35], ["a dog"])
