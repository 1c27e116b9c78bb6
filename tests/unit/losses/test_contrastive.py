"""Test InfoNCE, the sigmoid loss and distance-weighted negatives against plain loops."""

import math
import sys
from functools import partial

import numpy as np
import pytest
import torch
from goldens_path import case, read_npz

from itm.batch import Captions, Images, Pairs
from itm.losses import SAM, InfoNCE, Neighborhood, Sigmoid, Triplet, infonce, sigmoid, triplet
from itm.losses.distance_weighted import draw_negatives, log_weights
from itm.models import VSEPP


def pairs_of(image, index=None):
    """Make a batch from the image row of each caption and the identity of each image."""
    image = torch.tensor(image)
    index = torch.arange(int(image.max()) + 1) if index is None else torch.tensor(index)
    images = Images(torch.zeros(len(index), 1, 1), torch.ones(len(index), 1) > 0, index)
    tokens = torch.zeros(len(image), 1, dtype=torch.long)
    return Pairs(images, Captions(tokens, (1,) * len(image), torch.arange(len(image)), image))


def plain_infonce(s, positive, temperature, margin):
    """Go through the images, then through the captions, one item at a time."""
    means = []
    for rows, match in ((s, positive), (s.T, positive.T)):
        losses = []
        for row, own in zip(rows, match, strict=True):
            if not own.any():
                continue
            x = [(v if o else v + margin) / temperature for v, o in zip(row, own, strict=True)]
            log_sum = math.log(sum(math.exp(v) for v in x))
            each = [log_sum - v for v, o in zip(x, own, strict=True) if o]
            losses.append(sum(each) / len(each))
        means.append(sum(losses) / len(losses))
    return sum(means) / 2


def plain_sigmoid(s, positive, scale, bias):
    total = 0.0
    for row, own in zip(s, positive, strict=True):
        for value, match in zip(row, own, strict=True):
            z = 1 if match else -1
            total += math.log(1 + math.exp(-z * (scale * value + bias)))
    return total / s.shape[1]


BATCHES = {
    "square": ([0, 1, 2, 3], None),
    "copies": ([0, 1, 2, 3], [5, 7, 5, 9]),
    "several captions": ([0, 0, 1, 2, 2, 2], None),
    "an image without captions": ([0, 2, 2], [3, 4, 5]),
}


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("kind", BATCHES)
def test_both_losses_equal_plain_loops(kind, copies):
    batch = pairs_of(*BATCHES[kind])
    index, image = batch.images.index, batch.captions.image
    positive = np.array(
        [
            [bool(index[i] == index[own]) if copies else bool(i == own) for own in image]
            for i in range(len(index))
        ]
    )
    torch.manual_seed(0)
    scores = torch.randn(positive.shape, dtype=torch.float64)
    for margin in (0.0, 0.3):
        loss = InfoNCE(0.5, margin=margin, same_image=copies).double()
        expected = plain_infonce(scores.numpy(), positive, 0.5, margin)
        assert loss(scores, batch).item() == pytest.approx(expected, rel=1e-7)
    loss = Sigmoid(3.0, -1.0, same_image=copies).double()
    expected = plain_sigmoid(scores.numpy(), positive, 3.0, -1.0)
    assert loss(scores, batch).item() == pytest.approx(expected, rel=1e-7)


def test_infonce_equals_cross_entropy_and_the_original():
    torch.manual_seed(0)
    scores, own = torch.randn(5, 5), torch.arange(5)
    entropy = torch.nn.functional.cross_entropy
    expected = (entropy(scores / 0.2, own) + entropy(scores.T / 0.2, own)) / 2
    assert infonce(scores, temperature=0.2).item() == pytest.approx(expected.item(), rel=1e-6)
    golden = read_npz(case("chan/gru_basic_grid") / "expected.npz")
    found = 2 * infonce(torch.from_numpy(golden["sims"][:, ::5]), None, 0.1, 0.05)
    assert found.item() == pytest.approx(float(golden["grid_infonce_T0.1"]), abs=1e-5)


def test_scores_of_any_size_give_finite_losses_and_gradients():
    for size in (1e-3, 1.0, 1e4):
        scores = (size * torch.eye(4)).requires_grad_()
        for loss in (InfoNCE(), Sigmoid()):
            value = loss(scores)
            gradients = torch.autograd.grad(value, [scores, *loss.parameters()])
            assert value.isfinite() and all(x.isfinite().all() for x in gradients)
    half = torch.eye(4, dtype=torch.bfloat16)
    assert InfoNCE()(half).dtype == Sigmoid()(half).dtype == torch.float32


def test_gradients():
    torch.manual_seed(0)
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    image = torch.tensor([0, 1, 1, 2, 2])
    t, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.7, -0.4))
    assert torch.autograd.gradcheck(lambda s, t: infonce(s, image, t, 0.1), (scores, t))
    assert torch.autograd.gradcheck(lambda s, t, b: sigmoid(s, image, t, b), (scores, t, b))


def test_the_temperature_is_learnt_and_bounded():
    torch.manual_seed(0)
    loss = InfoNCE(0.07)
    optimizer = torch.optim.Adam(loss.parameters(), 0.5)
    for _ in range(20):  # perfect scores: the colder, the better
        optimizer.zero_grad()
        loss(torch.eye(8)).backward()
        optimizer.step()
    assert loss.temperature.item() == pytest.approx(0.01)
    fixed = InfoNCE(0.005, learn=False)
    assert fixed.temperature.item() == pytest.approx(0.005)
    assert not any(p.requires_grad for p in fixed.parameters())


@pytest.mark.parametrize("loss", [InfoNCE(0.011), Sigmoid(90.0, 0.0)])
def test_a_scale_at_its_bound_can_shrink_again(loss):
    optimizer = torch.optim.Adam(loss.parameters(), 0.1)
    reached = []
    for scores in [torch.eye(8)] * 20 + [-torch.eye(8)] * 40:  # first perfect, then all wrong
        optimizer.zero_grad()
        loss(0.01 * scores).backward()
        optimizer.step()
        reached.append(loss.log_scale.exp().item())
    assert reached[19] > 100
    assert reached[-1] < 90


@pytest.mark.parametrize("loss", [InfoNCE(), Sigmoid()])
def test_weight_decay_leaves_scales_and_biases_alone(loss):
    matcher = VSEPP(10, img_dim=6, word_dim=4, embed_dim=8, loss=loss)
    matcher.optimizer = partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5)
    main, own = matcher.configure_optimizers().param_groups
    assert own["weight_decay"] == 0 and main["weight_decay"] == 0.5 and own["lr"] == 0.1
    assert {id(p) for p in own["params"]} == {id(p) for p in loss.parameters()}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InfoNCE(0), "temperature must be above 0, got 0"),
        (lambda: InfoNCE(margin=-1), "margin must be at least 0, got -1"),
        (lambda: Sigmoid(-1), "scale must be above 0, got -1"),
        (lambda: infonce(torch.zeros(2, 3)), "not square"),
        (lambda: sigmoid(torch.zeros(2, 3)), "not square"),
        (lambda: Triplet(negatives="distance"), "needs dim, the width of the vectors"),
        (lambda: triplet(torch.eye(3), negatives="distance", dim=2), "at least 3, got 2"),
        (
            lambda: Triplet(negatives="distance", dim=8)(10 * torch.eye(3)),
            "needs cosines, but these scores reach 10; use negatives='hardest'",
        ),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Distance-weighted negatives ----------------------------------------------------------------------


def test_weights_are_the_inverse_density_of_distances():
    """Between random points on a sphere the drawn distances are uniform where they are weighted."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200_000, 6))
    s = x[:, 0] / np.linalg.norm(x, axis=1)
    d = np.sqrt(2 - 2 * s)
    weights = log_weights(torch.from_numpy(s), 6).exp().numpy()
    counts, _ = np.histogram(d, 9, (0.5, 1.4), weights=weights)
    assert counts.max() / counts.min() < 1.15
    for value in (0.2, -0.4, 0.87):
        d = min(max(math.sqrt(2 - 2 * value), 0.5), 1.4)
        expected = -math.log(d ** (6 - 2) * (1 - d * d / 4) ** ((6 - 3) / 2))
        found = log_weights(torch.tensor(value, dtype=torch.float64), 6).item()
        assert found == pytest.approx(expected)


def test_negatives_are_drawn_in_proportion_to_their_weights():
    torch.manual_seed(0)
    scores = torch.tensor([[0.9, 0.6, 0.3, 0.1, 0.8]])
    excluded = torch.tensor([[True, False, False, False, False]])
    weights = log_weights(scores, 5).exp().masked_fill(excluded, 0)[0]
    drawn = draw_negatives(scores.repeat(20_000, 1), excluded.repeat(20_000, 1), 5)
    shares = drawn.bincount(minlength=5) / 20_000
    torch.testing.assert_close(shares, weights / weights.sum(), atol=0.02, rtol=0)
    assert shares[0] == 0


def test_the_loss_is_the_hinge_of_the_drawn_negatives(monkeypatch):
    torch.manual_seed(0)
    scores = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    scores = scores @ scores.T * 0.9
    choices = iter([torch.tensor([1, 2, 3, 0]), torch.tensor([2, 3, 0, 1])])
    module = sys.modules["itm.losses.triplet"]
    monkeypatch.setattr(module, "draw_negatives", lambda *_: next(choices))
    found = triplet(scores, negatives="distance", dim=8, margin=1.5)
    rows = sum(max(0, 1.5 + float(scores[i, (i + 1) % 4] - scores[i, i])) for i in range(4))
    columns = sum(max(0, 1.5 + float(scores[(i + 2) % 4, i] - scores[i, i])) for i in range(4))
    assert found.item() == pytest.approx(rows + columns, rel=1e-5)


def test_an_anchor_without_negatives_adds_nothing():
    loss = Triplet(negatives="distance", dim=8)
    assert loss(torch.full((1, 1), 0.3)).item() == 0
    loss = Triplet(negatives="distance", dim=8, warmup_steps=1)
    assert torch.isfinite(loss(torch.eye(3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InfoNCE(float("nan")), "temperature must be above 0"),
        (lambda: InfoNCE(0.005), "at least 0.01 if it is learnt, got 0.005: give learn=False"),
        (lambda: InfoNCE(margin=float("nan")), "margin must be at least 0, got nan"),
        (lambda: Sigmoid(200), "scale must be at most 100, the largest learnt, got 200"),
        (lambda: Sigmoid(float("nan")), "scale must be above 0, got nan"),
        (lambda: Triplet(margin=float("nan")), "margin must be at least 0, got nan"),
        (lambda: Neighborhood(margin=-1), "margin must be at least 0, got -1"),
        (lambda: Neighborhood(sentences=0), "sentences must be at least 1, got 0"),
        (lambda: SAM(temperature=float("nan")), "temperature must be above 0"),
        (lambda: InfoNCE()(torch.zeros(3)), r"scores must be a matrix \(images, captions\)"),
    ],
)
def test_values_that_would_become_others_or_nan_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    assert float(InfoNCE(0.005, learn=False).temperature) == pytest.approx(0.005)
