"""Arguments that would change the meaning of a loss without a word are refused."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy import MeanMatcher

from itm.batch import Captions, Encoded, Images, Pairs
from itm.losses import (
    PCMEPP,
    SAM,
    InfoNCE,
    Logistic,
    MultiLabel,
    Neighborhood,
    Sigmoid,
    Triplet,
    logistic,
    neighborhood,
    pcmepp,
    released_sam,
    sam,
    triplet,
)
from itm.losses.neighborhood import neighbors
from itm.models import CASC

SCORES = torch.linspace(-1, 1, 16).reshape(4, 4)
RELEVANCE = SCORES.abs()
EYE = torch.eye(4)


@pytest.mark.parametrize(
    "loss",
    [triplet, neighborhood, partial(sam, relevance=RELEVANCE), partial(neighbors, same=EYE > 0)],
    ids=["triplet", "neighborhood", "sam", "neighbors"],
)
@pytest.mark.parametrize("ignore", [EYE[3] > 0, EYE[:, :1] > 0, EYE.long(), EYE[:3] > 0])
def test_pairs_to_ignore_are_given_one_by_one(loss, ignore):
    """A row of flags would be repeated for all images."""
    with pytest.raises(ValueError, match=r"ignore must be \(4, 4\) bool"):
        loss(SCORES, ignore=ignore)
    assert loss(SCORES, ignore=EYE > 0).isfinite()


@pytest.mark.parametrize("top_k", [0, -1])
def test_at_least_one_violation_counts(top_k):
    """With none, the loss would be 0."""
    for call in (neighborhood, partial(neighbors, same=EYE > 0)):
        with pytest.raises(ValueError, match="top_k must be at least 1"):
            call(SCORES, top_k=top_k)


@pytest.mark.parametrize("temperature", [0.0, -3.0, float("nan")])
def test_the_temperature_of_sam_is_above_0(temperature):
    for call in (
        partial(sam, SCORES, RELEVANCE),
        partial(released_sam, SCORES, RELEVANCE),
        SAM,
    ):
        with pytest.raises(ValueError, match="temperature must be above 0"):
            call(temperature=temperature)


def test_options_of_the_released_sam_are_known():
    """An unknown one would be taken for another."""
    for name, value in {"sampling": "soft", "indexing": "paper", "reduction": "avg"}.items():
        with pytest.raises(ValueError, match=f"{name} must be"):
            released_sam(SCORES, RELEVANCE, **{name: value})
    with pytest.raises(ValueError, match="reduction must be"):
        SAM(alone=True, reduction="avg")


@pytest.mark.parametrize("target", [5 * EYE, EYE > 0, EYE - 0.5], ids=["5", "bool", "half"])
def test_labels_of_pairs_are_1_0_and_minus_1(target):
    with pytest.raises(ValueError, match=r"target must hold \+1"):
        logistic(SCORES, target)
    assert logistic(SCORES, (2 * EYE - 1).long()) == logistic(SCORES, 2 * EYE - 1)


def test_labels_of_pcmepp_are_probabilities():
    """Labels of +1 and -1 are those of the logistic loss."""
    with pytest.raises(ValueError, match="labels must lie between 0"):
        pcmepp(SCORES, 2 * EYE - 1)
    assert pcmepp(SCORES, EYE > 0) == pcmepp(SCORES, EYE)


@pytest.mark.parametrize(
    "make, name",
    [
        (SAM, "weight"), (MultiLabel, "weight"), (Neighborhood, "image_weight"),
        (Neighborhood, "caption_weight"), (Neighborhood, "image_neighbors"),
        (Neighborhood, "caption_neighbors"), (PCMEPP, "vib_beta"), (PCMEPP, "smoothness_alpha"),
        (Triplet, "warmup_steps"), (SAM, "warmup_steps"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_no_term_is_learnt_backwards(make, name, value):
    """A negative weight would make its term larger, and the loss still falls."""
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got {value}"):
        make(**{name: value})
    make(**{name: 0})


@pytest.mark.parametrize("scale", [0.0, -5.0, float("nan")])
def test_near_pairs_match_in_pcmepp(scale):
    with pytest.raises(ValueError, match="init_negative_scale must be above 0"):
        PCMEPP(init_negative_scale=scale)


@pytest.mark.parametrize("make", [Triplet, InfoNCE, Sigmoid, PCMEPP, Neighborhood, Logistic])
@pytest.mark.parametrize(
    "scores, kind", [(EYE.long(), "torch.int64"), (EYE > 0, "torch.bool"), (EYE.numpy(), "float32")]
)
def test_scores_are_a_tensor_of_floats(make, scores, kind):
    """Some losses took integers, and others ended with an error of torch."""
    with pytest.raises(TypeError, match=f"scores must be a tensor of floats.*, got {kind}"):
        make()(scores)


def test_a_batch_without_pairs_has_no_loss_by_distance():
    """As with the other negatives."""
    for negatives in ("hardest", "all", "top", "distance"):
        assert Triplet(negatives=negatives, dim=4)(torch.zeros(0, 0)) == 0


def pairs_of(count):
    row = torch.arange(count)
    images = Images(torch.rand(count, 2, 5), torch.ones(count, 2, dtype=torch.bool), row)
    labels = torch.ones(count, 3)
    return Pairs(images, Captions(torch.ones(count, 2).long(), (2,) * count, row, row, labels))


def test_a_multi_label_loss_without_its_head_is_no_triplet_loss():
    """Without a data module, and without sizes, it had been one without a word."""
    pairs, sides = pairs_of(4), (Encoded(EYE), Encoded(EYE))
    labels = SimpleNamespace(pos_weight=lambda: np.ones(3))
    for call in (
        lambda: MultiLabel()(SCORES, pairs, sides),
        lambda: MeanMatcher(20, 5, 6, loss=MultiLabel()).losses(pairs),
    ):
        with pytest.raises(ValueError, match=r"no label head yet: .*MultiLabel\(dim=.*Triplet"):
            call()
    loss = MultiLabel()
    loss.set_dim(4)
    with pytest.raises(ValueError, match="no label head yet"):  # the labels are missing
        loss.terms(SCORES, pairs, sides)
    loss.set_labels(labels)
    assert list(loss.terms(SCORES, pairs, sides)) == ["multilabel"]
    own = MultiLabel()
    small = {"embed_dim": 6, "word_dim": 4, "num_labels": 3, "hidden": 4}
    assert set(CASC(20, 5, **small, loss=own).losses(pairs)) == {"ranking", "labels", "total"}
    own.set_labels(labels)
    assert own.terms(SCORES, pairs, sides) == {}


def test_a_multi_label_loss_serves_one_matcher():
    """CASC would have got a second label loss, with the head of the earlier matcher."""
    loss = MultiLabel()
    loss.set_dim(4)
    loss.set_dim(4)  # a training that goes on
    for other in (None, 6):
        with pytest.raises(ValueError, match="from the training of another matcher: make a new"):
            loss.set_dim(other)
    given = MultiLabel(dim=4, num_labels=3)
    given.set_dim(6)  # its vectors are compared later
    assert given.dim == 4
