"""Check the loss protocol for library losses, plain callables and a user's own modules."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from toy import MeanMatcher

from itm.batch import Pairs
from itm.data.padding import make_captions, make_images
from itm.losses import (
    PCMEPP,
    SAM,
    Logistic,
    Loss,
    MultiLabel,
    Neighborhood,
    Triplet,
    as_loss,
    triplet,
)
from itm.losses.base import Hinge

EVERY = [Triplet(), SAM(), SAM(alone=True), MultiLabel(), Neighborhood(), Logistic(), PCMEPP()]


class Levels(MeanMatcher):
    """A matcher with one or more score levels."""

    def __init__(self, loss=None, levels=1):
        super().__init__(20, 5, 6, loss=loss)
        self.levels = levels

    def training_scores(self, images, captions):
        main = self.similarity(images, captions)
        return {"main": (1.0, main)} | {str(n): (0.5, main**2) for n in range(1, self.levels)}


def make_pairs(size):
    features = np.random.default_rng(0).standard_normal((size, 2, 5))
    tokens = [[1, 4 + row, 2] for row in range(size)]
    rows = range(size)
    return Pairs(make_images(features, rows), make_captions(tokens, rows, rows), torch.eye(size))


def contrastive(scores, pairs, encoded):
    return nn.functional.cross_entropy(scores, pairs.captions.image)


@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: type(loss).__name__)
def test_losses_of_the_library_are_the_protocol_itself(loss):
    assert as_loss(loss) is loss and Levels(loss).objective is loss
    assert loss.needs_relevance == isinstance(loss, SAM)
    assert loss.needs_labels == isinstance(loss, MultiLabel)
    assert loss.sentences == (2 if isinstance(loss, Neighborhood) else 1)
    assert isinstance(loss.ranked, Loss) and not loss.gather


def test_a_function_has_the_defaults():
    loss, pairs = as_loss(contrastive), make_pairs(3)
    scores = torch.rand(3, 3)
    assert loss(scores, pairs, None) == contrastive(scores, pairs, None)
    assert loss.ranked is loss and loss.terms(scores, pairs, None) == {} and loss.hinge() is None
    asked = (loss.needs_relevance, loss.needs_labels, loss.gather, loss.sentences)
    assert asked == (False, False, False, 1)
    loss.start_batch()
    loss.set_labels(None)
    with pytest.raises(ValueError, match="loss=neighborhood or loss=logistic"):
        loss.ground(scores, pairs, None)
    with pytest.raises(TypeError, match="must be a callable loss"):
        as_loss("triplet")


class Mine:
    """A plain object, not a module, that defines everything the protocol reads."""

    needs_relevance = needs_labels = gather = True
    sentences = 3

    def __init__(self):
        self.ranking = Triplet(margin=0.4, warmup_steps=2)

    def __call__(self, scores, pairs, encoded):
        raise AssertionError("ranking and terms take its place")

    def terms(self, scores, pairs, encoded):
        return {"mean": scores.mean()}

    def ground(self, scores, pairs, encoded):
        return {"ground": scores.sum()}

    def set_labels(self, labels):
        self.labels = labels


def test_what_a_callable_states_counts():
    mine = Mine()
    loss = as_loss(mine)
    assert loss.needs_relevance and loss.needs_labels and loss.gather and loss.sentences == 3
    assert loss.ranked is mine.ranking and loss.ranked.hinge() == Hinge(0.4, "hardest", "sum", 2)
    loss.set_labels("words")
    loss.set_relevance("index")
    assert mine.labels == "words" and mine.relevance_index == "index"
    assert loss.ground(torch.ones(2), None, None) == {"ground": 2}

    matcher, pairs = Levels(mine, levels=3), make_pairs(4)
    terms = matcher.losses(pairs)
    assert matcher.loss is mine and int(mine.ranking.steps) == 1
    assert terms.keys() == {"ranking_main", "ranking_1", "ranking_2", "mean", "total"}


def test_the_hinge_of_a_callable_with_the_options_of_one():
    options = SimpleNamespace(margin=0.1, negatives="top", reduction="mean")
    given = type("Given", (), {**vars(options), "__call__": staticmethod(contrastive)})()
    assert as_loss(given).hinge() == Hinge(0.1, "top", "mean", None)


class Composite(nn.Module):
    """A user's module that calls a library loss inside its own."""

    def __init__(self):
        super().__init__()
        self.inner = Triplet(warmup_steps=2)

    def forward(self, scores, pairs, encoded):
        return 2 * self.inner(scores, pairs, encoded)


def without_head():
    """Return a multi-label loss whose matcher has a label loss of its own, as CASC does."""
    loss = MultiLabel(warmup_steps=2)
    loss.set_dim(None)
    return loss


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize(
    "make, inner",
    [
        (lambda: Triplet(warmup_steps=2), lambda loss: loss),
        (without_head, lambda loss: loss.ranking),
        (lambda: SAM(warmup_steps=2), lambda loss: loss.ranking),
        (Composite, lambda loss: loss.inner),
    ],
    ids=["triplet", "multilabel", "sam", "composite"],
)
def test_a_batch_of_the_warmup_counts_once(levels, make, inner):
    matcher, pairs = Levels(make(), levels), make_pairs(4)
    for count in (1, 2, 3):
        matcher.losses(pairs)
        assert int(inner(matcher.loss).steps) == count
    matcher.eval().losses(pairs)
    assert int(inner(matcher.loss).steps) == 3


def test_a_subclass_of_the_triplet_is_called_for_each_level():
    class Doubled(Triplet):
        def forward(self, scores, pairs=None, encoded=None):
            return 2 * super().forward(scores, pairs, encoded)

    pairs = make_pairs(4)
    matcher = Levels(Triplet(), levels=2)
    once = matcher.losses(pairs)
    matcher.loss = Doubled()
    twice = matcher.losses(pairs)
    assert twice["total"].item() == pytest.approx(2 * once["total"].item())


def test_in_a_loop_of_ones_own_calls_count_until_batches_are_announced():
    scores = torch.rand(4, 4)
    every, hardest = triplet(scores, negatives="all"), triplet(scores)
    loss = Triplet(warmup_steps=1)
    loss.start_batch()
    assert [float(loss(scores)) for _ in range(3)] == [float(every)] * 3  # levels of one batch
    copied = copy.deepcopy(loss)
    for one in (loss, copied):
        one.start_batch()
        assert float(one(scores)) == float(hardest) and int(one.steps) == 2


def test_names_in_state_dicts_stay():
    assert list(Triplet().state_dict()) == ["steps"]
    assert list(SAM().state_dict()) == list(MultiLabel().state_dict()) == ["ranking.steps"]
    assert not SAM(alone=True).state_dict() and not Neighborhood().state_dict()
    assert Triplet().steps.dtype == torch.int64


def test_a_class_or_a_name_in_place_of_a_loss_fails_when_the_matcher_is_built():
    for wrong, message in ((Triplet, "got the class Triplet: Triplet\\(\\)"), ("sam", "got 'sam'")):
        with pytest.raises(TypeError, match=message):
            MeanMatcher(5, 4, loss=wrong)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda scores, pairs, encoded: 1.0, "must return a scalar tensor, got a float"),
        (lambda scores, pairs, encoded: -scores.diagonal(), r"got a Tensor of shape \(2,\)"),
        (lambda scores, pairs: scores.sum(), r"got one that takes \(scores, pairs\)"),
    ],
)
def test_a_callable_that_is_no_loss_is_refused(loss, message):
    with pytest.raises(TypeError, match=message):
        as_loss(loss)(torch.eye(2), None, None)


class TwoArguments:
    def __call__(self, scores, pairs):
        return scores.mean()


def test_objects_of_other_arguments_are_refused_when_the_matcher_is_built():
    with pytest.raises(TypeError, match=r"got one, TwoArguments, that takes \(scores, pairs\)"):
        MeanMatcher(5, 4, loss=TwoArguments())


def test_modules_of_other_arguments_are_refused():
    with pytest.raises(TypeError, match="got one, CrossEntropyLoss, that takes .*input"):
        as_loss(nn.CrossEntropyLoss())


def test_a_loss_without_a_gradient_is_refused():
    matcher, pairs = Levels(lambda scores, pairs, encoded: scores.detach().sum()), make_pairs(3)
    with pytest.raises(ValueError, match="depends on no parameter that is trained"):
        matcher.training_step(pairs, 0)


def test_finished_optimisers_and_schedules_are_refused():
    adam = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    with pytest.raises(TypeError, match="optimizer must be a class or a partial, .* got Adam obj"):
        MeanMatcher(20, 5, 6, optimizer=adam)
    with pytest.raises(TypeError, match="scheduler must be a class or a partial, .* got StepLR ob"):
        MeanMatcher(20, 5, 6, scheduler=torch.optim.lr_scheduler.StepLR(adam, 1))
    matcher = Levels(contrastive)
    matcher.optimizer = adam
    with pytest.raises(TypeError, match="optimizer must be a class or a partial"):
        matcher.configure_optimizers()


def test_rows_of_positives_that_do_not_exist():
    for rows in ([0, 0, 0, 1, 1, 7], [0, 0, 0, 1, 1, -1]):
        with pytest.raises(ValueError, match="scores 2 x 6 have the rows 0 to 1"):
            triplet(torch.randn(2, 6), positive=torch.tensor(rows))
