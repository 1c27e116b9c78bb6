"""Arguments that would change the meaning of a loss without a word are refused."""

from functools import partial

import pytest
import torch

from itm.losses import SAM, logistic, neighborhood, pcmepp, released_sam, sam, triplet
from itm.losses.neighborhood import neighbors

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
