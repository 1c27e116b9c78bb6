"""Test SCAN: the original's numbers, a plain loop over pairs, gradients, precision, bad input."""

import itertools
import json

import attention_oracle as oracle
import numpy as np
import pytest
import torch
from golden_metrics import check_metrics, check_options
from goldens_path import case, read_npz
from omegaconf import OmegaConf
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from itm.app.config import compose
from itm.batch import Encoded
from itm.layers import cross_attention
from itm.layers.attention_math import AGGREGATIONS, RAW_NORMS
from itm.layers.cross_attention import Blocking, CrossAttention
from itm.losses import Triplet
from itm.models import SCAN
from itm.published.convert import from_published, read_checkpoint, save_published

SINGLE = [
    "t2i_lse",
    "i2t_lse",
    "t2i_avg",
    "i2t_avg",
    "i2t_lse_coco",
    "i2t_lse_softmax",
    "t2i_max",
    "t2i_sum",
    "t2i_lse_unigru_sumloss",
    "i2t_avg_unigru_maxviol",
    "t2i_lse_weightnorm_nonorm_2layer",
    "i2t_max_clipped_sumloss",
]


class Golden:
    """A golden case: its matcher, images (each once), captions, options and expected arrays."""

    def __init__(self, name, checkpoint="checkpoint.pth.tar"):
        folder = case(f"scan/{name}")
        self.options = json.loads((folder / "options.json").read_text())
        self.expected = read_npz(folder / "expected.npz")
        self.path = folder / checkpoint
        self.matcher = from_published(self.path, vocab=folder / "vocab.json")
        negatives = "hardest" if self.options["max_violation"] else "all"
        self.matcher.loss = Triplet(self.options["margin"], negatives)
        (data,) = (folder / "data").iterdir()
        lines = (data / "test_caps.txt").read_bytes().decode().split("\n")
        self.captions = [line for line in lines if line]
        images = np.load(data / "test_ims.npy")
        self.images = images[::5] if len(images) == len(self.captions) else images
        self.tolerance = 1e-4 if self.options["agg_func"] == "Sum" else 1e-5

    def batch(self):
        rows, images = self.expected["batch_captions"], self.expected["batch_images"]
        return self.matcher.pairs(self.images[images], [self.captions[row] for row in rows])

    def encoded(self, image, caption):
        pairs = self.matcher.pairs(self.images[[image]], [self.captions[caption]])
        return self.matcher.encode_images(pairs.images), self.matcher.encode_captions(
            pairs.captions
        )


@pytest.mark.parametrize("name", SINGLE)
def test_golden_encodings_and_tokens(name):
    golden = Golden(name)
    expected = golden.expected
    n, m = len(golden.images), len(golden.captions)
    pairs = golden.matcher.pairs(golden.images, golden.captions, image=[c // 5 for c in range(m)])
    np.testing.assert_array_equal(pairs.captions.tokens, expected["token_ids"])
    np.testing.assert_array_equal(pairs.captions.lengths, expected["cap_len"])
    with torch.no_grad():
        images = golden.matcher.encode_images(pairs.images)
        captions = golden.matcher.encode_captions(pairs.captions)
    np.testing.assert_allclose(images.parts, expected["img_emb"][:n], atol=1e-6)
    np.testing.assert_allclose(captions.parts, expected["cap_emb"], atol=1e-6)


@pytest.mark.parametrize("name", SINGLE)
def test_golden_similarity_and_ranks(name):
    golden = Golden(name)
    found = golden.matcher.score(golden.images, golden.captions)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, golden.expected["sims"], atol=golden.tolerance)
    check_metrics(golden.expected, found)


@pytest.mark.parametrize("name", SINGLE)
def test_golden_attention(name):
    golden = Golden(name)
    with torch.no_grad():
        images, captions = golden.encoded(*golden.expected["pair"])
        (picture,) = golden.matcher.attention(images, captions)[0]  # (R, L)
    t2i = golden.options["cross_attn"] == "t2i"
    source = images if t2i else captions
    p = picture if t2i else picture.T
    np.testing.assert_allclose(p, golden.expected["pair_attn"], atol=1e-5)
    context = p.T @ source.parts[0]
    np.testing.assert_allclose(context, golden.expected["pair_context"], atol=1e-5)
    queries = (captions if t2i else images).parts[0]
    found = torch.cosine_similarity(queries, context, dim=-1)
    np.testing.assert_allclose(found, golden.expected["pair_row_sim"], atol=1e-5)


@pytest.mark.parametrize("name", SINGLE)
def test_golden_five_steps(name):
    golden, expected = Golden(name), Golden(name).expected
    matcher, pairs = golden.matcher, golden.batch()
    np.testing.assert_array_equal(pairs.captions.tokens, expected["batch_tokens"])
    np.testing.assert_array_equal(pairs.captions.lengths, expected["batch_lengths"])
    with torch.no_grad():
        found = matcher(pairs.images, pairs.captions)
        np.testing.assert_allclose(found, expected["batch_sims_eval"], atol=golden.tolerance)
        assert float(matcher.losses(pairs)["total"]) == pytest.approx(
            float(expected["loss_eval"]), rel=1e-5
        )
    matcher.train()
    optimizer = torch.optim.Adam(matcher.parameters(), golden.options["learning_rate"])
    listed = [*matcher.text.parameters(), *matcher.image.parameters()]  # the original's order
    before = [p.detach().clone() for p in listed]
    losses, norms = [], []
    for _ in range(5):
        optimizer.zero_grad()
        loss = matcher.losses(pairs)["total"]
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(matcher.parameters(), golden.options["grad_clip"]))
        optimizer.step()
        losses.append(loss.item())
        if len(losses) == 1:
            both = zip(listed, before, strict=True)
            noise = [(p.grad != 0) & (p.grad.abs() < 1e-8) for p in listed]
            steps = [(p.detach() - x).abs() for p, x in both]
            moved = [float(x[~rounding].sum()) for x, rounding in zip(steps, noise, strict=True)]
    # Adam's first step is the rate times the sign of a gradient. Of a gradient of 1e-9, which is
    # rounding, it is anything up to the rate, also in the golden; there is at most one in a tensor.
    due, rate = expected["params_delta_abs_sum_step1"], golden.options["learning_rate"]
    for found, wanted, rounding in zip(moved, due, noise, strict=True):
        most = int(rounding.sum())
        assert most <= 1 and -1e-3 * wanted <= wanted - found <= most * rate + 1e-3 * wanted
    np.testing.assert_allclose(losses, expected["losses"], rtol=2e-5)
    np.testing.assert_allclose(norms, expected["grad_norms"], rtol=1e-3)
    after = matcher.score(golden.images, golden.captions)
    np.testing.assert_allclose(after, expected["sims_after"], atol=10 * golden.tolerance)


def test_golden_grid_of_norms_and_aggregations():
    golden = Golden("grid_norm_agg")
    pairs = golden.batch()
    for direction, norm, aggregation in itertools.product(("t2i", "i2t"), RAW_NORMS, AGGREGATIONS):
        options = (9.0, 6.0) if direction == "t2i" else (4.0, 5.0)
        matcher = golden.matcher
        matcher.cross = CrossAttention(direction, norm, options[0], aggregation, options[1])
        key = f"{direction}/{norm}/{aggregation}"
        atol = 1e-4 if aggregation == "Sum" else 1e-5
        found = matcher.score(golden.images, golden.captions)
        np.testing.assert_allclose(found, golden.expected[f"sims/{key}"], atol=atol, err_msg=key)
        with torch.no_grad():
            scores = matcher(pairs.images, pairs.captions)
        for name, negatives in (("max", "hardest"), ("sum", "all")):
            loss = float(Triplet(0.2, negatives)(scores, pairs))
            assert loss == pytest.approx(float(golden.expected[f"loss/{key}/{name}"]), rel=1e-4)


def test_golden_ensemble():
    first = Golden("ensemble_t2i_avg_i2t_lse")
    second = Golden("ensemble_t2i_avg_i2t_lse", "checkpoint2.pth.tar")
    found = [g.matcher.score(g.images, g.captions) for g in (first, second)]
    np.testing.assert_allclose(found[0], first.expected["sims1"], atol=1e-5)
    np.testing.assert_allclose(found[1], first.expected["sims2"], atol=1e-5)
    np.testing.assert_allclose(np.mean(found, 0), first.expected["sims"], atol=1e-5)
    for prefix, scores in (("m1_", found[0]), ("m2_", found[1]), ("", np.mean(found, 0))):
        check_metrics(first.expected, scores, prefix)


def test_golden_legacy_checkpoint():
    new, old = Golden("t2i_lse"), Golden("t2i_lse", "checkpoint_legacy.pth.tar")
    assert new.matcher.hparams == old.matcher.hparams
    for name, value in new.matcher.state_dict().items():
        assert torch.equal(value, old.matcher.state_dict()[name]), name


@pytest.mark.parametrize("name", SINGLE)
def test_published_round_trip(name, tmp_path):
    golden = Golden(name)
    save_published(golden.matcher, tmp_path / "again.pth.tar")
    states, options = read_checkpoint(golden.path)
    again, written = read_checkpoint(tmp_path / "again.pth.tar")
    for before, after in zip(states, again, strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    check_options(options, written)
    matcher = from_published(tmp_path / "again.pth.tar")
    assert matcher.hparams == golden.matcher.hparams
    matcher.vocab = golden.matcher.vocab
    found = matcher.score(golden.images, golden.captions)
    scores = golden.matcher.score(golden.images, golden.captions)
    np.testing.assert_allclose(found, scores, atol=1e-6)


def test_published_is_told_from_vsepp_by_its_options():
    from itm.published.scan import read
    from itm.published.tables import Known

    states, options = read_checkpoint(case("scan/t2i_lse") / "checkpoint.pth.tar")
    assert read(states, Known(options)) is not None
    assert read(states, {"measure": "cosine"}) is None  # VSE++: the same tensors


def sides(regions, words, dtype=torch.float64):
    """Make `Encoded` sides from lists of (R_i, D) and (L_c, D); padding must not matter."""

    def side(parts):
        padded = pad_sequence([x.to(dtype) for x in parts], batch_first=True, padding_value=7.0)
        mask = pad_sequence([torch.ones(len(x)) for x in parts], batch_first=True) > 0
        return Encoded(parts=padded, mask=mask)

    return side(regions), side(words)


def random_sides(seed, regions=(4, 2, 4), words=(5, 3, 5, 2, 6, 3), D=7, dtype=torch.float64):
    torch.manual_seed(seed)
    lists = [[torch.randn(n, D, dtype=dtype) for n in counts] for counts in (regions, words)]
    return *lists, *sides(*lists, dtype)


BLOCKINGS = {  # one block, many blocks, groups with padding
    "whole": Blocking(0.0, 1 << 62, 1 << 62),
    "pieces": Blocking(0.0, 40, 12),
    "padded": Blocking(1.0, 1 << 62, 1 << 62),
    "padded pieces": Blocking(0.5, 60, 20),
}


@pytest.mark.parametrize("blocking", BLOCKINGS.values(), ids=BLOCKINGS)
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_scores_equal_a_loop_over_pairs(direction, blocking, monkeypatch):
    monkeypatch.setattr(cross_attention, "CACHE", blocking)
    for seed, (norm, aggregation) in enumerate(itertools.product(RAW_NORMS, AGGREGATIONS)):
        regions, words, images, captions = random_sides(seed)
        if seed % 2:  # all images with the same number of regions
            regions, words, images, captions = random_sides(seed, regions=(3, 3))
        options = (direction, norm, 3.0, aggregation, 2.5)
        cross = CrossAttention(*options)
        expected = oracle.scores(regions, words, *options)
        found = cross.similarity(images, captions)
        assert torch.allclose(found, expected, atol=1e-10), options


@pytest.mark.parametrize("blocking", BLOCKINGS.values(), ids=BLOCKINGS)
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_gradients_equal_those_of_the_loop(direction, blocking, monkeypatch):
    monkeypatch.setattr(cross_attention, "CACHE", blocking)
    for seed, (norm, aggregation) in enumerate(zip(RAW_NORMS, 2 * AGGREGATIONS, strict=False)):
        regions, words, *_ = random_sides(seed)
        leaves = [x.requires_grad_() for x in (*regions, *words)]
        options = (direction, norm, 3.0, aggregation, 2.5)
        weight = torch.randn(len(regions), len(words), dtype=torch.float64)
        loop = (oracle.scores(regions, words, *options) * weight).sum()
        fast = (CrossAttention(*options).similarity(*sides(regions, words)) * weight).sum()
        expected = torch.autograd.grad(loop, leaves)
        found = torch.autograd.grad(fast, leaves)
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, atol=1e-9), options


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_attention_is_zero_at_padding_and_sums_to_one(direction):
    regions, words, images, captions = random_sides(0)
    weights = CrossAttention(direction, temperature=2.0).weights(images, captions)
    assert weights.shape == (3, 6, 4, 6)
    for i, c in itertools.product(range(3), range(6)):
        v, w = regions[i], words[c]
        query, context = (w, v) if direction == "t2i" else (v, w)
        p, _ = oracle.attend(query, context, "clipped_l2norm", 2.0)
        expected = torch.zeros(4, 6, dtype=torch.float64)
        expected[: len(v), : len(w)] = p if direction == "t2i" else p.T
        assert torch.allclose(weights[i, c], expected, atol=1e-12)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_gradcheck(direction):
    _, _, images, captions = random_sides(3, regions=(3, 2), words=(2, 4))
    cross = CrossAttention(direction, aggregation="LogSumExp")

    def scores(regions, words):
        return cross.similarity(images._replace(parts=regions), captions._replace(parts=words))

    leaves = (images.parts.requires_grad_(), captions.parts.requires_grad_())
    assert torch.autograd.gradcheck(scores, leaves)


@pytest.mark.parametrize("norm", RAW_NORMS)
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_zero_vectors_give_finite_scores_and_gradients(direction, norm):
    torch.manual_seed(0)
    regions, words = torch.randn(2, 3, 5), torch.randn(2, 4, 5)
    regions[0], words[1, 2] = 0, 0
    leaves = [x.requires_grad_() for x in (regions, words)]
    images = Encoded(parts=regions, mask=torch.ones(2, 3, dtype=torch.bool))
    captions = Encoded(parts=words, mask=torch.ones(2, 4, dtype=torch.bool))
    for aggregation in AGGREGATIONS:
        scores = CrossAttention(direction, norm, aggregation=aggregation).similarity(
            images, captions
        )
        gradients = torch.autograd.grad(scores.sum(), leaves)
        assert torch.isfinite(scores).all()
        assert all(torch.isfinite(g).all() and g.abs().max() < 1e3 for g in gradients)


def small(seed=0, **options):
    """Make a random SCAN, images with 3 to 5 regions and captions of 2 to 7 tokens."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 30, "img_dim": 12, "word_dim": 6, "embed_dim": 8}
    matcher = SCAN(**{**sizes, **options}, loss=Triplet())
    matcher.vocab = Letters()
    rng = np.random.default_rng(seed)
    features = [rng.standard_normal((n, 12)).astype(np.float32) for n in (5, 3, 4, 5)]
    captions = ["bcd", "efghijk", "lm", "nopqr"]
    return matcher, features, captions


class Letters:
    """Make a vocabulary of letters, for captions of obvious length."""

    def __len__(self):
        return 26

    def encode(self, caption):
        return [ord(letter) - ord("a") for letter in caption]


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_padding_and_company_change_nothing(direction):
    matcher, features, captions = small(direction=direction, aggregation="LogSumExp")
    every = matcher.score(features, captions)
    for i, c in itertools.product(range(4), range(4)):
        alone = matcher.score([features[i]], [captions[c]])
        np.testing.assert_allclose(alone, every[i : i + 1, c : c + 1], atol=1e-6)
    np.testing.assert_allclose(matcher.score(features[::-1], captions), every[::-1], atol=1e-6)
    np.testing.assert_allclose(matcher.score(features, captions, batch_size=2), every, atol=1e-6)
    matcher.memory_budget = 1
    np.testing.assert_allclose(matcher.score(features, captions), every, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"weight_norm": True, "direction": "i2t"}])
def test_gradients_reach_every_parameter(options):
    matcher, features, captions = small(**options, num_layers=2)
    matcher.losses(matcher.pairs(features, captions))["total"].backward()
    for name, parameter in matcher.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_batch_of_one():
    matcher, features, captions = small()
    losses = matcher.losses(matcher.pairs(features[:1], captions[:1]))
    assert losses["total"] == 0  # no negatives
    losses["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in matcher.parameters())


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_bfloat16_autocast_stays_close(direction):
    matcher, features, captions = small(direction=direction, aggregation="LogSumExp")
    pairs = matcher.pairs(features, captions)
    scores = matcher(pairs.images, pairs.captions)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = matcher(pairs.images, pairs.captions)
    assert reduced.dtype == torch.float32
    assert (reduced - scores).abs().max() < 0.02
    reduced.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in matcher.parameters())


def test_captions_of_the_same_image_in_one_batch():
    matcher, features, captions = small()
    pairs = matcher.pairs(features[:2], captions, image=[0, 0, 1, 1])
    assert torch.isfinite(matcher.losses(pairs)["total"])
    assert matcher(pairs.images, pairs.captions).shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "both"}, "direction must be 't2i' or 'i2t', got 'both'"),
        ({"raw_norm": "l3norm"}, "raw_norm must be .*'clipped_l2norm'.* got 'l3norm'"),
        ({"aggregation": "mean"}, "aggregation must be 'LogSumExp', 'Mean'.* got 'mean'"),
        ({"text": {"name": "mean"}}, "text=gru or text=bert"),
    ],
)
def test_unknown_options(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("scan_t2i", {}),
        ("scan_t2i_lse", {"aggregation": "LogSumExp"}),
        ("scan_i2t", {"direction": "i2t", "temperature": 4.0, "aggregation": "LogSumExp"}),
        ("scan_i2t_avg", {"direction": "i2t", "temperature": 4.0}),
    ],
)
def test_configurations_list_the_arguments_in_order(name, chosen):
    config = OmegaConf.to_container(compose([f"model={name}", "~recipe"]).model)
    assert config.pop("_target_") == "itm.models.scan.SCAN"
    defaults = dict(SCAN(9).hparams)
    assert list(config) == list(defaults)
    given = {"vocab_size": None, "img_dim": None, "text": {"name": "gru"}}
    lse = {"lambda_lse": 5.0} if name.startswith("scan_i2t") else {}
    assert config == {**defaults, **given, **lse, **chosen}


@pytest.mark.parametrize("size", [1.0, 0.03, 0.003])
@pytest.mark.parametrize("temperature", [4.0, 9.0, 20.0])
@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_what_points_away_is_not_taken_for_zero(direction, temperature, size):
    """Attention to opposed vectors is e^-temperature before scaling, not zero."""
    torch.manual_seed(0)
    query = torch.nn.functional.normalize(torch.randn(1, 8), dim=-1)
    context = size * torch.nn.functional.normalize(0.3 * torch.randn(3, 8) - query, dim=-1)
    parts = (size * query, context) if direction == "i2t" else (context, size * query)
    images, captions = (
        Encoded(None, x[None], torch.ones(1, len(x), dtype=torch.bool)) for x in parts
    )
    images.parts.requires_grad_()
    options = (direction, "l2norm", temperature, "Mean", 6.0)
    attention = CrossAttention(*options)
    found = attention.similarity(attention.prepare(images), captions)
    assert torch.autograd.grad(found.sum(), images.parts)[0].isfinite().all()
    torch.testing.assert_close(
        found, oracle.scores(parts[:1], parts[1:], *options), atol=1e-5, rtol=0
    )
