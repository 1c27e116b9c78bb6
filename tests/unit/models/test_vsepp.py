"""Test VSE++: the original's numbers, plain formulas, files, bad input."""

import argparse

import numpy as np
import pytest
import torch
from golden_metrics import check_metrics
from omegaconf import OmegaConf
from vse_goldens import VSEGolden, check_steps

from itm.app.config import compose
from itm.batch import Encoded
from itm.layers.functional import order_scores
from itm.losses import Triplet
from itm.models import SCAN, VSEPP
from itm.published.convert import from_published, read_checkpoint, save_published
from itm.text.vocabulary import SPECIALS, Vocabulary

CASES = ["vsepp_cosine", "vse0_noimgnorm", "order0_abs", "orderpp", "vsepp_2layer"]
CAPTIONS = ["a dog runs", "two red cat", "a", "a red dog runs a cat"]


@pytest.mark.parametrize("name", CASES)
def test_golden_scores_and_ranks(name):
    golden = VSEGolden(f"vsepp/{name}")
    matcher, expected = golden.matcher, golden.expected
    images, captions = golden.data("test")
    ids = matcher.pairs(images, captions, image=[0] * len(captions)).captions
    np.testing.assert_array_equal(ids.tokens, expected["cap_ids"])
    np.testing.assert_array_equal(ids.lengths, expected["cap_len"])
    np.testing.assert_allclose(matcher.embed(features=images), expected["img_emb"], atol=1e-6)
    np.testing.assert_allclose(matcher.embed(captions=captions), expected["cap_emb"], atol=1e-6)
    found = matcher.score(images, captions)
    np.testing.assert_allclose(found, expected["sims"], atol=1e-6)
    check_metrics(expected, found)


@pytest.mark.parametrize("name", CASES)
def test_golden_losses_and_five_steps(name):
    golden = VSEGolden(f"vsepp/{name}")
    expected, pairs = golden.expected, golden.batch()
    matcher = golden.matcher.double()
    with torch.no_grad():
        scores = matcher(pairs.images, pairs.captions)
    np.testing.assert_allclose(scores, expected["batch_sims"], atol=1e-8)
    for negatives in ("all", "hardest"):
        loss = float(Triplet(golden.options["margin"], negatives)(scores, pairs))
        assert loss == pytest.approx(float(expected[f"loss_{negatives}"]), rel=1e-10)
    check_steps(expected, golden.train(), rtol=1e-10)


def test_golden_legacy_checkpoint_and_vocabularies():
    new, old = (
        VSEGolden("vsepp/vsepp_cosine"),
        VSEGolden("vsepp/vsepp_cosine", "checkpoint_legacy.pth.tar"),
    )
    assert new.matcher.hparams == old.matcher.hparams
    for name, value in new.matcher.state_dict().items():
        assert torch.equal(value, old.matcher.state_dict()[name]), name
    other = from_published(new.path, vocab=new.folder / "vocab.json").vocab
    assert other.words == new.matcher.vocab.words


@pytest.mark.parametrize("name", CASES)
def test_published_round_trip(name, tmp_path):
    golden = VSEGolden(f"vsepp/{name}")
    save_published(golden.matcher, tmp_path / "again.pth.tar")
    states, options = read_checkpoint(golden.path)
    again, written = read_checkpoint(tmp_path / "again.pth.tar")
    for before, after in zip(states, again, strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    assert written.keys() >= options.keys()
    same = ("measure", "use_abs", "no_imgnorm", "img_dim", "embed_size", "word_dim", "num_layers")
    assert all(written[key] == options[key] for key in same)
    images, captions = golden.data("test")
    read = golden.read(tmp_path / "again.pth.tar")
    scores = golden.matcher.score(images, captions)
    np.testing.assert_allclose(read.score(images, captions), scores, atol=1e-6)


def made(**options):
    torch.manual_seed(0)
    matcher = VSEPP(10, 6, 4, 8, **options)
    matcher.vocab = Vocabulary([*SPECIALS, "a", "dog", "cat", "runs", "red", "two"])
    return matcher.eval()


@pytest.mark.parametrize("measure", ["cosine", "order"])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("use_abs", [False, True])
def test_scores_equal_the_formulas(measure, raw, use_abs):
    matcher = made(measure=measure, no_imgnorm=raw, use_abs=use_abs, num_layers=2)
    rng = np.random.default_rng(0)
    regions = [rng.normal(size=(n, 6)).astype(np.float32) for n in (3, 1, 5)]
    weight, bias = (x.detach().numpy().astype(float) for x in matcher.image.parameters())
    v = np.stack([weight @ x.mean(0).astype(float) + bias for x in regions])
    v = v if raw else v / np.linalg.norm(v, axis=1, keepdims=True)
    v = np.abs(v) if use_abs else v
    t = []
    for caption in CAPTIONS:
        ids = torch.tensor([matcher.vocab.encode(caption)])
        state = matcher.text.rnn(matcher.text.embed(ids))[0][0, -1].detach().numpy().astype(float)
        t.append(state / np.linalg.norm(state))
    t = np.abs(t) if use_abs else np.array(t)
    expected = [
        [x @ y if measure == "cosine" else -np.linalg.norm(np.maximum(0, y - x)) for y in t]
        for x in v
    ]
    np.testing.assert_allclose(matcher.score(regions, CAPTIONS), expected, atol=1e-6)
    vectors = np.stack([x.mean(0) for x in regions])
    np.testing.assert_allclose(matcher.score(vectors, CAPTIONS), expected, atol=1e-6)


def test_a_caption_below_its_image_has_no_gradient():
    image = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    caption = torch.tensor([[0.5, 1.0]], requires_grad=True)
    scores = order_scores(image, caption)
    assert scores[0, 0] == 0
    for gradient in torch.autograd.grad(scores.sum(), (image, caption)):
        assert gradient.isfinite().all()
    assert torch.autograd.grad(order_scores(image, caption)[0, 0], image)[0].abs().max() == 0


def test_zero_vectors_have_finite_gradients():
    matcher = made()
    matcher.loss = Triplet()
    with torch.no_grad():
        matcher.image.bias.zero_()
    matcher.losses(matcher.pairs(np.zeros((2, 1, 6), np.float32), CAPTIONS[:2]))["total"].backward()
    assert all(p.grad.isfinite().all() for p in matcher.parameters())


def test_only_cosine_ranks_by_vectors():
    assert made().ranks_by_vectors and not made(measure="order").ranks_by_vectors
    vector = Encoded(torch.ones(2, 8))
    assert made(measure="order").similarity(vector, vector).shape == (2, 2)


def test_an_unknown_measure_is_named():
    with pytest.raises(ValueError, match="measure must be 'cosine' or 'order', got 'l2'"):
        made(measure="l2")


# Files --------------------------------------------------------------------------------------------


def write(path, states, **options):
    torch.save({"model": states, "opt": argparse.Namespace(**options)} if options else
               {"model": states}, path)  # fmt: skip
    return path


def test_vsepp_and_scan_with_one_direction_are_told_apart(tmp_path):
    path = tmp_path / "m.pth.tar"
    sizes = {"vocab_size": 10, "img_dim": 6, "word_dim": 4, "embed_dim": 8}
    for matcher in (VSEPP(**sizes, measure="order"), SCAN(**sizes, bidirectional=False)):
        save_published(matcher, path)
        read = from_published(path)
        assert type(read) is type(matcher) and read.hparams == matcher.hparams
    states, _ = read_checkpoint(path)
    bare = write(path, states)
    with pytest.raises(ValueError, match=r"fit VSE\+\+ and a SCAN with one .* family='vsepp'"):
        from_published(bare)
    assert type(from_published(bare, family="scan")) is SCAN
    assert type(from_published(bare, family="vsepp")) is VSEPP
    assert from_published(bare, options={"measure": "order"}).hparams["measure"] == "order"
    assert type(from_published(bare, options={"cross_attn": "t2i"})) is SCAN


def test_weights_from_pixels_are_refused_by_name(tmp_path):
    save_published(made(), tmp_path / "m.pth.tar")
    states, options = read_checkpoint(tmp_path / "m.pth.tar")
    states[0]["cnn.features.0.weight"] = torch.zeros(2, 3, 3, 3)
    path = write(tmp_path / "pixels.pth.tar", states, **options)
    with pytest.raises(ValueError, match=r"from pixels \(1 tensors of a CNN: cnn.features.0.weig"):
        from_published(path)


def test_the_configuration_lists_the_arguments_in_order():
    config = OmegaConf.to_container(compose(["model=vsepp", "~recipe"]).model)
    assert config.pop("_target_") == "itm.models.vsepp.VSEPP"
    defaults = dict(VSEPP(9).hparams)
    assert list(config) == list(defaults)
    given = {"vocab_size": None, "img_dim": None, "text": {"name": "gru"}}
    assert config == {**defaults, **given}
