"""No matcher makes a NaN, in values or gradients, out of anything that is not one itself."""

import numpy as np
import pytest
import torch
from small_models import MODELS, WORDS

from itm.layers.attention_math import RAW_NORMS
from itm.layers.functional import masked_mean, masked_softmax
from itm.losses import PCMEPP, SAM, InfoNCE, Logistic, MultiLabel, Neighborhood, Sigmoid, Triplet
from itm.models import TwoBranchEmbedding, TwoBranchSimilarity

CAPTIONS = ["a dog runs", "zyzzyva xyster", "a", "red cat", ""]
RAGGED = set(MODELS) - {"sgr", "saf", "cvse"}  # those have batch norms over region positions
PRECISIONS = ["float32", "float64", "bfloat16", "float16"]  # the last two by autocast


def features(ragged):
    """Five images: ordinary, all zero, one zero region, and copies of one region; some padded."""
    x = np.random.default_rng(0).normal(size=(5, 3, 6)).astype(np.float32)
    x[1], x[2, 1], x[3] = 0, 0, x[3, 0]
    return [x[0], x[1, :1], x[2], x[3, :2], x[4, :0]] if ragged else x


def built(name, **options):
    torch.manual_seed(0)
    matcher = MODELS[name](loss=Triplet(), **options)
    matcher.vocab = WORDS
    return matcher


def batch(matcher, ragged):
    labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]]
    relevance = np.zeros((5, 5))
    given = {"labels": labels, "concepts": labels, "relevance": relevance}
    return matcher.pairs(features(ragged), CAPTIONS, **given)


def in_float64(pairs):
    def double(x):
        return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    images, captions = (side._replace(**{k: double(v) for k, v in side._asdict().items()})
                        for side in pairs[:2])  # fmt: skip
    return pairs._replace(images=images, captions=captions, relevance=double(pairs.relevance))


def step(matcher, pairs, precision):
    """Losses and gradients, all of them numbers."""
    matcher.train()
    if precision == "float64":
        matcher, pairs = matcher.double(), in_float64(pairs)
    kind = getattr(torch, precision)
    with torch.autocast("cpu", kind, enabled=precision.endswith("16")):
        losses = matcher.losses(pairs)
    losses["total"].backward()
    for loss, value in losses.items():
        assert value.isfinite(), (loss, value)
    for parameter, x in matcher.named_parameters():
        assert x.grad is None or x.grad.isfinite().all(), parameter


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_zero_and_masked_rows(name, precision):
    """Zero images and regions, equal regions, unknown words, no words; padding, no regions."""
    for ragged in (False, True) if name in RAGGED else (False,):
        matcher = built(name)
        step(matcher, batch(matcher, ragged), precision)
        matcher = matcher.float().eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            scores = matcher.score(features(ragged), CAPTIONS)
        assert scores.shape == (5, 5) and not np.isnan(scores).any()


CHOICES = [
    *((n, {"raw_norm": x}) for n in ("scan_t2i", "scan_i2t", "casc") for x in RAW_NORMS),
    *((n, {"level": "region"}) for n in ("two_branch_embedding", "two_branch_similarity")),
]


@pytest.mark.parametrize("name, options", CHOICES)
def test_zero_and_masked_rows_under_every_choice(name, options):
    """Among them an image without regions, which has scores, too."""
    matcher = built(name, **options)
    step(matcher, batch(matcher, ragged=True), "float32")
    assert np.isfinite(matcher.eval().score(features(ragged=True), CAPTIONS)).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_caption_of_300_words_and_one_of_unknown_words(name):
    """The long one costs its room and counts whole; unknown words are all one word."""
    matcher = built(name).eval()
    long = " ".join(["a red dog"] * 100)
    scores = matcher.score(features(False), [long, "zyzzyva", "xyster", f"{long} cat"])
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[:, 1], scores[:, 2], atol=1e-6)
    assert not np.array_equal(scores[:, 0], scores[:, 3])
    pairs = matcher.pairs(features(False)[:2], [long, "zyzzyva"], labels=np.ones((2, 3)))
    assert all(x.isfinite() for x in matcher.train().losses(pairs).values())


TEMPERED = {
    "scan_t2i": ("temperature", "lambda_lse"),
    "scan_i2t": ("temperature", "lambda_lse"),
    "sgr": ("temperature",),
    "saf": ("temperature",),
    "chan": ("alpha", "beta"),
    "casc": ("t2i_temperature", "i2t_temperature", "lambda_lse"),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [1e-6, 1e4])
@pytest.mark.parametrize("name, option", [(n, o) for n, every in TEMPERED.items() for o in every])
def test_extreme_temperatures(name, option, value, precision):
    # Unscaled, CHAN divides scores by beta: a factor of 1e6 is beyond float16.
    more = {"scale_lse": True} if (name, option) == ("chan", "beta") else {}
    matcher = built(name, **{option: value}, **more)
    step(matcher, batch(matcher, ragged=False), precision)


LOSSES = {
    "triplet": Triplet,
    "sam": lambda: SAM(temperature=1e-6, alone=True),
    "neighborhood": Neighborhood,
    "multilabel": lambda: MultiLabel(dim=8, num_labels=3),
    "logistic": Logistic,
    "pcmepp": PCMEPP,
    "infonce": InfoNCE,
    "sigmoid": Sigmoid,
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_every_loss_on_every_matcher(name, loss):
    matcher = built(name)
    torch.manual_seed(0)
    if loss == "multilabel":
        matcher.loss = MultiLabel(dim=matcher.label_dim, num_labels=3)
    else:
        matcher.loss = LOSSES[loss]()
    step(matcher, batch(matcher, ragged=False), "bfloat16")


@pytest.mark.parametrize("name", MODELS)
def test_numbers_in_place_of_sentences_are_an_error(name):
    matcher, vectors = built(name), np.ones((5, 6), np.float32)
    uses = (
        lambda: matcher.score(features(False), vectors),
        lambda: matcher.embed(captions=vectors),
        lambda: matcher.pairs(features(False), vectors),
    )
    for use in uses:
        with pytest.raises(ValueError, match=r"array \(5, 6\) of numbers.*reads words.*text=vec"):
            use()


@pytest.mark.parametrize("cls", [TwoBranchEmbedding, TwoBranchSimilarity])
def test_sentence_vectors_reach_the_encoder_that_reads_them(cls):
    matcher = cls(img_dim=6, sentence_dim=7, text={"name": "vectors"}, hidden_dim=8).eval()
    assert np.isfinite(matcher.score(features(False), np.zeros((2, 7), np.float32))).all()
    with pytest.raises(ValueError, match=r"must be \(C, F\), got \(2, 3, 7\)"):
        matcher.score(features(False), np.zeros((2, 3, 7), np.float32))


@pytest.mark.parametrize(
    "captions, message",
    [
        ("a dog", "list of sentences.*got 'a dog'"),
        (["a dog", b"a cat"], "caption 1 must be a string, got bytes"),
        (torch.ones(2, 6), r"array \(2, 6\) of numbers.*reads words"),
        (["a dog", None], "caption 1 must be a string, got NoneType"),
    ],
)
def test_what_is_no_sentence_is_named(captions, message):
    with pytest.raises(ValueError, match=message):
        built("scan_t2i").score(features(False), captions)


def test_masked_layers_equal_those_of_the_real_entries_alone():
    x = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 0])[:, None]
    x = x.masked_fill(~mask[..., None], 1e6)  # what stands in the padding must not matter
    weights, means = masked_softmax(x[..., 0], mask), masked_mean(x, mask)
    for row, n in enumerate([6, 3, 1]):
        torch.testing.assert_close(weights[row, :n], x[row, :n, 0].softmax(0))
        torch.testing.assert_close(means[row], x[row, :n].mean(0))
    assert not weights[~mask].any() and not means[3].any()
