"""Compare every loss with plain loops, closed forms and published values."""

import copy
import inspect
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from goldens_path import HERE, case, read_npz
from hydra.utils import get_class
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

import itm.losses
from itm.app.config import CONF, compose
from itm.batch import Captions, Encoded, Images, Pairs
from itm.losses import SAM, MultiLabel, Triplet, infonce, released_sam, sam, triplet
from itm.losses.base import as_loss
from itm.losses.sam import SAMPLING
from itm.matcher.matcher import Matcher

# (I, C, row of each caption's image): square, single, several captions per image, images without.
LAYOUTS = {
    "1x1": (1, [0]),
    "2x2": (2, [0, 1]),
    "square": (6, [0, 1, 2, 3, 4, 5]),
    "shuffled": (5, [3, 0, 4, 1, 2]),
    "several captions": (3, [0, 0, 1, 1, 2, 2, 2]),
    "images without captions": (5, [1, 4, 1]),
    "one caption": (4, [2]),
    "one image": (1, [0, 0, 0]),
    "no captions": (3, []),
}


def make_pairs(size, image, index=None, relevance=None, labels=None):
    count = len(image)
    return Pairs(
        Images(
            torch.zeros(size, 1, 2),
            torch.ones(size, 1, dtype=torch.bool),
            torch.arange(size) if index is None else torch.tensor(index),
        ),
        Captions(
            torch.ones(count, 1, dtype=torch.long),
            (1,) * count,
            torch.arange(count),
            torch.tensor(image, dtype=torch.long),
            labels,
        ),
        relevance,
    )


def draw(layout, seed=0, ties=False):
    """Draw scores, relevance and rows of a layout; with ties, scores take only a few values."""
    size, image = LAYOUTS[layout]
    g = torch.Generator().manual_seed(seed)
    scores = torch.rand(size, len(image), generator=g, dtype=torch.float64) * 2 - 1
    scores = (scores * 4).round() / 4 if ties else scores
    return scores, torch.rand(scores.shape, generator=g, dtype=torch.float64) * 10, image


def anchors_of(shape, image, ignore=None):
    """List (positive, negatives) index pairs in both directions, straight from the definition."""
    rows, columns = shape
    matching = {(i, c) for c, i in enumerate(image)}
    out = matching | (
        {tuple(x) for x in ignore.nonzero().tolist()} if ignore is not None else set()
    )
    for i, c in sorted(matching, key=lambda pair: pair[1]):
        yield (i, c), [(i, j) for j in range(columns) if (i, j) not in out]
        yield (i, c), [(k, c) for k in range(rows) if (k, c) not in out]


def triplet_loop(scores, image, margin, negatives, top_k=10, reduction="sum", ignore=None):
    total, count = 0.0, 0
    for positive, others in anchors_of(scores.shape, image, ignore):
        hinges = [max(0.0, margin + float(scores[o] - scores[positive])) for o in others]
        hinges.sort(reverse=True)
        count += 1
        if negatives == "all":
            total += sum(hinges)
        elif hinges:
            kept = hinges[: 1 if negatives == "hardest" else top_k]
            total += sum(kept) / len(kept)
    return total / max(count, 1) if reduction == "mean" else total


def sam_loop(scores, relevance, image, temperature, sampling, ignore=None):
    total = 0.0
    for positive, others in anchors_of(scores.shape, image, ignore):
        if sampling != "all" and others:
            extreme = max if sampling == "hardest" else min
            others = [extreme(others, key=lambda o: float(scores[o]))]
        for o in others:
            margin = min(float(relevance[positive] - relevance[o]) / temperature, 1.0)
            total += max(0.0, margin + float(scores[o] - scores[positive]))
    return total


# Triplet --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("negatives", ["hardest", "all", "top"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_triplet_is_the_sum_over_anchors(layout, negatives, ties):
    scores, _, image = draw(layout, 1, ties)
    ignore = torch.rand(scores.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    for margin, top_k, reduction, out in ((0.2, 2, "sum", None), (0.7, 10, "mean", ignore)):
        expected = triplet_loop(scores, image, margin, negatives, top_k, reduction, out)
        rows = torch.tensor(image, dtype=torch.long)
        got = triplet(scores, rows, out, margin, negatives, top_k, reduction)
        assert float(got) == pytest.approx(expected, abs=1e-12)
        mask = torch.arange(len(scores))[:, None] == rows
        got = triplet(scores, mask, out, margin, negatives, top_k, reduction)
        assert float(got) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_hardest_negative_has_the_gradient_of_the_largest_hinge(layout, ties):
    """Tied negatives share it; an anchor whose negatives are all excluded has none."""
    scores, _, image = draw(layout, 1, ties)
    ignore = torch.rand(scores.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    ignore[:1] = True
    rows, columns = torch.tensor(image, dtype=torch.long), torch.arange(scores.shape[1])
    mask = torch.arange(len(scores))[:, None] == rows
    ours, plain = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    own, out, total = plain[rows, columns][:, None], mask | ignore, 0.0
    for others, excluded in ((plain[rows], out[rows]), (plain.T, out.T)):
        hinge = (0.2 + others - own).clamp_min(0).masked_fill(excluded, 0)
        total = total + (hinge.amax(1) if hinge.numel() else hinge).sum()
    (expected,) = torch.autograd.grad(total, plain)
    for positive in (rows, mask):
        (found,) = torch.autograd.grad(triplet(ours, positive, ignore), ours)
        torch.testing.assert_close(found, expected)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), rows=st.integers(1, 5), columns=st.integers(1, 6))
def test_triplet_takes_any_mask_of_matching_pairs(data, rows, columns):
    cells = st.lists(st.integers(-4, 4), min_size=rows * columns, max_size=rows * columns)
    scores = torch.tensor(data.draw(cells), dtype=torch.float64).view(rows, columns) / 4
    flags = st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns)
    mask = torch.tensor(data.draw(flags)).view(rows, columns)
    expected = 0.0
    for i, c in mask.nonzero().tolist():
        row = [float(scores[i, j]) for j in range(columns) if not mask[i, j]]
        column = [float(scores[k, c]) for k in range(rows) if not mask[k, c]]
        for others in (row, column):
            expected += max([0.0, *(0.2 + s - float(scores[i, c]) for s in others)])
    assert float(triplet(scores, mask)) == pytest.approx(expected, abs=1e-12)


def test_triplet_without_positives_takes_the_diagonal():
    scores, _, image = draw("square")
    assert float(triplet(scores)) == pytest.approx(triplet_loop(scores, image, 0.2, "hardest"))
    assert torch.equal(Triplet()(scores), triplet(scores))


def test_triplet_matches_published_values():
    golden = read_npz(case("metrics/sam") / "expected.npz")
    for name, negatives in (("fixed_sum", "all"), ("fixed_max", "hardest")):
        scores = torch.tensor(golden["sims"], requires_grad=True)
        loss = triplet(scores, negatives=negatives)
        loss.backward()
        assert loss.item() == pytest.approx(float(golden[f"{name}/loss"]), abs=2e-5)
        np.testing.assert_allclose(scores.grad, golden[f"{name}/grad_sims"], atol=1e-6)


@pytest.mark.parametrize("negatives", ["hardest", "all", "top"])
def test_triplet_gradient(negatives):
    for layout in ("square", "several captions", "images without captions", "1x1"):
        scores, _, image = draw(layout, 3)
        rows = torch.tensor(image)
        torch.autograd.gradcheck(
            lambda s, rows=rows: triplet(s, rows, negatives=negatives, top_k=2),
            scores.requires_grad_(),
        )


def test_equal_scores_cost_the_margin_and_give_a_finite_gradient():
    scores = torch.zeros(4, 4, requires_grad=True)
    loss = triplet(scores)
    loss.backward()
    assert loss.item() == pytest.approx(2 * 4 * 0.2)
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_same_image_is_masked_only_on_request():
    scores, relevance, image = draw("square", 4)
    pairs = make_pairs(6, image, index=[7, 7, 3, 4, 7, 3], relevance=relevance)
    same = pairs.images.index[:, None] == pairs.images.index
    for mask, ignore in ((False, None), (True, same)):
        expected = triplet_loop(scores, image, 0.2, "hardest", ignore=ignore)
        assert float(Triplet(mask_same_image=mask)(scores, pairs)) == pytest.approx(expected)
        expected = sam_loop(scores, relevance, image, 3.0, "hardest", ignore)
        loss = SAM(sampling="hardest", weight=1.0, alone=True, mask_same_image=mask)
        assert float(loss(scores, pairs)) == pytest.approx(expected)


def test_one_image_only_has_no_negatives_when_masked():
    scores, relevance, image = draw("square", 4)
    pairs = make_pairs(6, image, index=[5] * 6, relevance=relevance)
    for sampling in ("random", "hardest", "easiest", "all"):
        loss = SAM(sampling=sampling, mask_same_image=True)
        assert float(loss(scores, pairs)) == 0


# Warm-up --------------------------------------------------------------------------------------


def test_warmup_takes_all_negatives_first():
    scores, _, _ = draw("square")
    loss = Triplet(warmup_steps=2)
    every, hardest = triplet(scores, negatives="all"), triplet(scores)
    assert [float(loss(scores)) for _ in range(4)] == [every, every, hardest, hardest]
    assert int(loss.steps) == 4


def test_warmup_survives_a_checkpoint_and_evaluation_does_not_count():
    scores, _, _ = draw("square")
    loss = Triplet(warmup_steps=2)
    loss(scores)
    loss.eval()(scores)
    resumed = Triplet(warmup_steps=2)
    resumed.load_state_dict(loss.state_dict())
    assert float(resumed(scores)) == float(triplet(scores, negatives="all"))
    assert float(resumed(scores)) == float(triplet(scores))
    copy.deepcopy(resumed)


def test_score_levels_of_one_batch_count_once():
    matcher = ToyMatcher(Triplet(warmup_steps=2), levels=3)
    pairs = toy_pairs(4, [0, 1, 2, 3])
    hardest = ToyMatcher(Triplet(), levels=3)
    hardest.load_state_dict(matcher.state_dict())
    totals = [matcher.losses(pairs)["total"].item() for _ in range(3)]
    assert int(matcher.loss.steps) == 3
    expected = hardest.losses(pairs)["total"].item()
    assert totals[2] == pytest.approx(expected) and totals[0] == totals[1] > expected


# SAM ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["hardest", "easiest", "all"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sam_is_the_sum_over_anchors(layout, sampling):
    for seed, temperature in ((1, 3.0), (2, 10.0), (3, 0.5)):
        scores, relevance, image = draw(layout, seed)
        ignore = torch.rand(scores.shape, generator=torch.Generator().manual_seed(seed)) < 0.3
        rows = torch.tensor(image, dtype=torch.long)
        for out in (None, ignore):
            expected = sam_loop(scores, relevance, image, temperature, sampling, out)
            got = sam(scores, relevance, rows, out, temperature, sampling)
            assert float(got) == pytest.approx(expected, abs=1e-12)
            mean = sam(scores, relevance, rows, out, temperature, sampling, "mean")
            assert float(mean) == pytest.approx(expected / max(2 * len(image), 1), abs=1e-12)


def test_sam_with_equal_differences_is_the_triplet_loss():
    scores, _, _ = draw("square", 5)
    relevance = torch.full((6, 6), 2.0, dtype=torch.float64) + 0.6 * torch.eye(6)
    for sampling in ("hardest", "all"):
        expected = triplet(scores, margin=0.2, negatives=sampling)
        assert float(sam(scores, relevance, sampling=sampling)) == pytest.approx(expected.item())


def test_sam_draws_every_negative_equally_often():
    torch.manual_seed(0)
    draws, size = 400, 5
    scores = torch.zeros(size, size, requires_grad=True)
    relevance = 3 * torch.eye(size)  # margin 1: every hinge is active and its gradient shows
    for _ in range(draws):
        loss = sam(scores, relevance)
        assert loss.item() == pytest.approx(2 * size)
        loss.backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad.diag(), torch.full((size,), -2.0 * draws))
    counts = scores.grad[~torch.eye(size, dtype=torch.bool)]
    share = 1 / (size - 1)
    sigma = (2 * draws * share * (1 - share)) ** 0.5
    assert (counts - 2 * draws * share).abs().max() < 4.5 * sigma


def test_sam_sampling_follows_the_torch_seed():
    scores, relevance, image = draw("several captions", 6)
    rows = torch.tensor(image)
    for sampling in ("random", "mixed"):
        values = []
        for seed in (0, 0, 1, 2, 3, 4, 5):
            torch.manual_seed(seed)
            values.append(float(sam(scores, relevance, rows, sampling=sampling)))
        assert values[0] == values[1] and len(set(values)) > 2
    hardest = float(sam(scores, relevance, rows, sampling="hardest"))
    assert hardest in values  # of "mixed"


def test_sam_margins_are_constants():
    scores, relevance, _ = draw("square", 7)
    relevance.requires_grad_()
    scores.requires_grad_()
    (gradient,) = torch.autograd.grad(
        sam(scores, relevance, sampling="all"), relevance, allow_unused=True, retain_graph=True
    )
    assert gradient is None
    torch.autograd.gradcheck(lambda s: sam(s, relevance, sampling="all"), scores)
    torch.autograd.gradcheck(lambda s: sam(s, relevance, sampling="hardest"), scores)
    torch.autograd.gradcheck(lambda s: released_sam(s, relevance, sampling="hardest"), scores)


def test_sam_lets_a_better_negative_win():
    scores = torch.tensor([[0.5, 0.9], [0.1, 0.8]])
    relevance = torch.tensor([[2.0, 5.0], [0.0, 5.0]])
    # (0, 1) describes image 0 better: margin -1 and no cost; the others have margin 2/3 or 0 or 1.
    terms = [0.9 - 0.5 - 1, 0.1 - 0.8 + 1, 0.1 - 0.5 + 2 / 3, 0.9 - 0.8 + 0]
    expected = sum(max(0.0, x) for x in terms)
    assert float(sam(scores, relevance)) == pytest.approx(expected, abs=1e-6)


def sam_cases():
    return json.loads((HERE / "goldens/metrics/sam/cases.json").read_text())


@pytest.mark.parametrize("name", sam_cases())
def test_released_sam_matches_published_values(name):
    options = sam_cases()[name]
    golden = read_npz(case("metrics/sam") / "expected.npz")
    relevance = torch.tensor(golden["relevance"])
    image = torch.tensor(golden["im"], requires_grad=True)
    caption = torch.tensor(golden["s"], requires_grad=True)
    scores = image @ caption.T
    scores.retain_grad()
    picks = tuple(torch.tensor(golden[f"{name}/neg_idx_{x}"]) for x in ("s", "im"))
    loss = released_sam(scores, relevance, options["temperature"], picks=picks)
    loss.backward()
    assert loss.item() == pytest.approx(float(golden[f"{name}/loss"]), abs=2e-5)
    for tensor, key in ((scores, "grad_sims"), (image, "grad_im"), (caption, "grad_s")):
        np.testing.assert_allclose(tensor.grad, golden[f"{name}/{key}"], atol=1e-6)

    scores = torch.tensor(golden["sims"], requires_grad=True)
    loss = released_sam(scores, relevance, options["temperature"], indexing="triplet", picks=picks)
    loss.backward()
    assert loss.item() == pytest.approx(float(golden[f"{name}/triplet_loss"]), abs=2e-5)
    np.testing.assert_allclose(scores.grad, golden[f"{name}/triplet_grad_sims"], atol=1e-6)

    if options["sampling"] != "random":  # the release's own picks are found again
        for indexing, key in (("released", "loss"), ("triplet", "triplet_loss")):
            loss = SAM(**options, weight=1, reference_topk=True, indexing=indexing, alone=True)
            value = loss(scores, make_pairs(12, range(12), relevance=relevance))
            assert value.item() == pytest.approx(float(golden[f"{name}/{key}"]), abs=2e-5)


def released_loop(scores, relevance, temperature, to_caption, to_image):
    total = 0.0
    for i in range(len(scores)):
        for j, own, other in (
            (to_caption[i], scores[i, i], to_image),
            (to_image[i], scores[to_image[i], to_image[i]], to_caption),
        ):
            margin = min(float(relevance[j, j] - relevance[j, other[j]]) / temperature, 1.0)
            total += max(0.0, float(scores[i, j] - own) + margin)
    return total


@pytest.mark.parametrize("size", [1, 2, 7])
def test_released_sam_is_the_loop(size):
    g = torch.Generator().manual_seed(size)
    scores = torch.rand(size, size, generator=g, dtype=torch.float64)
    relevance = torch.rand(size, size, generator=g, dtype=torch.float64) * 5
    for sign, sampling in ((1, "hardest"), (-1, "easiest")):
        rows = sign * (scores - scores.diag()[:, None])
        columns = sign * (scores - scores.diag())
        for reference in (True, False):
            if not reference:
                rows, columns = (x - 1e9 * torch.eye(size) for x in (rows, columns))
            place = min(int(reference), size - 1)
            to_caption, to_image = (
                x.argsort(1, descending=True)[:, place] for x in (rows, columns)
            )
            expected = released_loop(scores, relevance, 2.0, to_caption, to_image)
            got = released_sam(scores, relevance, 2.0, sampling, reference)
            assert float(got) == pytest.approx(expected, abs=1e-12)


def test_released_random_picks_are_never_the_positive():
    scores, relevance = torch.zeros(5, 5, requires_grad=True), 3 * torch.eye(5)
    for sampling in ("random", "mixed"):
        value = released_sam(scores, relevance, sampling=sampling, reference_topk=False)
        value.backward()
        assert value.item() == pytest.approx(10.0)
    assert scores.grad is not None and float(scores.grad.diag().sum()) == -20


@pytest.mark.parametrize(
    ("call", "extreme"),
    [(sam, "hardest"), (partial(released_sam, reference_topk=False), "easiest")],
)
def test_mixed_is_a_fair_coin(call, extreme):
    scores, relevance, _ = draw("square", 6)
    fixed = float(call(scores, relevance, sampling=extreme))
    torch.manual_seed(0)
    drawn = [float(call(scores, relevance, sampling="mixed")) for _ in range(400)]
    assert np.mean(np.array(drawn) == fixed) == pytest.approx(0.5, abs=0.1)


def test_sam_adds_to_the_ranking_loss_once_or_replaces_it():
    pairs = toy_pairs(4, [0, 1, 2, 3])
    relevance = torch.rand(4, 4, generator=torch.Generator().manual_seed(1)) * 3
    pairs = pairs._replace(relevance=relevance)
    for alone in (False, True):
        loss = SAM(margin=0.3, weight=2.0, sampling="all", alone=alone)
        matcher = ToyMatcher(loss, levels=2)
        terms = matcher.losses(pairs)
        first, second = (s for _, s in matcher.training_scores(*matcher.encode(pairs)).values())
        added = [2.0 * sam(s, relevance, sampling="all") for s in (first, second)]
        if alone:
            expected = [added[0], 0.5 * added[1]]
            assert terms.keys() == {"ranking_main", "ranking_1", "total"}
        else:
            expected = [triplet(first, margin=0.3), 0.5 * triplet(second, margin=0.3), added[0]]
            assert terms.keys() == {"ranking_main", "ranking_1", "sam", "total"}
            assert torch.equal(loss(first, pairs), expected[0] + expected[2])
        assert terms["total"].item() == pytest.approx(sum(expected).item(), rel=1e-6)


def test_sam_looks_the_relevance_up_when_the_batch_brings_none():
    scores, relevance, image = draw("several captions", 8)
    table = torch.rand(
        20, 9, generator=torch.Generator().manual_seed(0)
    ).numpy()  # captions, images
    pairs = make_pairs(3, image, index=[8, 2, 5])
    pairs = pairs._replace(captions=pairs.captions._replace(index=torch.arange(7) * 2))
    loss = SAM(sampling="all", alone=True, weight=1.0)
    loss.relevance_index = SimpleNamespace(batch=lambda c, i: table[np.ix_(c, i)].T.copy())
    relevance = torch.from_numpy(table[:13:2][:, [8, 2, 5]].T.copy())
    expected = sam_loop(scores, relevance, image, 3.0, "all")
    assert float(loss(scores, pairs)) == pytest.approx(expected, abs=1e-6)


def test_sam_names_what_is_wrong():
    scores, relevance, image = draw("square")
    with pytest.raises(ValueError, match=r"needs the relevance .* matcher.pairs"):
        SAM()(scores, make_pairs(6, image))
    relevance[1, 2] = float("nan")
    with pytest.raises(ValueError, match="relevance of 1 of 36 pairs is NaN"):
        SAM()(scores, make_pairs(6, image, relevance=relevance))
    with pytest.raises(ValueError, match=r"relevance must hold .* \(6, 6\), got \(3, 6\)"):
        sam(scores, relevance[:3])
    with pytest.raises(ValueError, match="sampling must be 'random', 'hardest', .* got 'hard'"):
        SAM(sampling="hard")
    with pytest.raises(ValueError, match="temperature must be above 0, got"):
        SAM(temperature=0)
    with pytest.raises(ValueError, match="cannot be combined with"):
        SAM(sampling="all", reference_topk=True)
    scores, relevance, image = draw("several captions")
    with pytest.raises(ValueError, match="one caption per image"):
        SAM(indexing="released")(scores, make_pairs(3, image, relevance=relevance))
    with pytest.raises(ValueError, match="not square"):
        released_sam(scores, relevance)


# Multi-label ----------------------------------------------------------------------------------


def multilabel_loop(head, image, caption, rows, labels, weight):
    total = 0.0
    for vectors, pick in ((image, rows), (caption, range(len(rows)))):
        logits = head(vectors).detach().double().numpy()
        for c, i in enumerate(pick):
            for k in range(labels.shape[1]):
                p = 1 / (1 + np.exp(-logits[i, k]))
                y = float(labels[c, k])
                total -= weight[k] * y * np.log(p) + (1 - y) * np.log(1 - p)
    return total / labels.numel()


@pytest.mark.parametrize("layout", ["square", "several captions", "images without captions", "1x1"])
def test_multilabel_is_the_label_loss_of_both_sides(layout):
    torch.manual_seed(0)
    scores, _, image = draw(layout)
    labels = (torch.rand(len(image), 5) < 0.4).float()
    pairs = make_pairs(len(scores), image, labels=labels)
    sides = Encoded(torch.randn(len(scores), 4)), Encoded(torch.randn(len(image), 4))
    loss = MultiLabel(weight=3.0, dim=4, num_labels=5, hidden=6, pos_weight=[1, 2, 3, 4, 0.5])
    expected = multilabel_loop(
        loss.head, sides[0].vector, sides[1].vector, image, labels, [1, 2, 3, 4, 0.5]
    )
    terms = loss.terms(scores, pairs, sides)
    assert terms["multilabel"].item() == pytest.approx(3 * expected, rel=1e-5)
    total = triplet_loop(scores, image, 0.2, "hardest") + 3 * expected
    assert loss(scores, pairs, sides).item() == pytest.approx(total, rel=1e-5)
    assert [type(layer).__name__ for layer in loss.head] == ["Linear", "Tanh", "Linear"]


def test_multilabel_reaches_both_encoders_and_reads_parts():
    pairs = toy_pairs(4, [0, 1, 2, 3])
    labels = (torch.rand(4, 5, generator=torch.Generator().manual_seed(3)) < 0.5).float()
    pairs = pairs._replace(captions=pairs.captions._replace(labels=labels))
    for parts_only in (False, True):
        matcher = ToyMatcher(MultiLabel(dim=6, num_labels=5), parts_only=parts_only)
        terms = matcher.losses(pairs)
        terms["multilabel"].backward()
        for parameter in matcher.parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0


def test_multilabel_gradient():
    torch.manual_seed(0)
    loss = MultiLabel(dim=3, num_labels=2, hidden=4, pos_weight=2.0).double()
    scores, _, image = draw("2x2")
    pairs = make_pairs(2, image, labels=torch.tensor([[1.0, 0], [0, 1]]))
    torch.autograd.gradcheck(
        lambda i, c: loss.terms(scores, pairs, (Encoded(i), Encoded(c)))["multilabel"],
        (torch.randn(2, 3).double().requires_grad_(), torch.randn(2, 3).double().requires_grad_()),
    )


def test_multilabel_takes_positive_weights_from_the_labels():
    vocabulary = SimpleNamespace(pos_weight=lambda: np.array([3.0, 4.0]))
    loss = MultiLabel(dim=4, num_labels=2)
    assert loss.pos_weight.tolist() == [1, 1]
    loss.set_labels(vocabulary)
    assert loss.pos_weight.tolist() == [3, 4]
    given = MultiLabel(dim=4, num_labels=2, pos_weight=2.0)
    given.set_labels(vocabulary)
    assert given.pos_weight.tolist() == [2, 2]
    given.load_state_dict(loss.state_dict())
    assert given.pos_weight.tolist() == [3, 4]
    with pytest.raises(ValueError, match="pos_weight must hold 3 numbers.* got 2"):
        MultiLabel(dim=4, num_labels=3).set_labels(vocabulary)


def test_multilabel_leaves_a_backbone_with_its_own_head_alone():
    scores, _, image = draw("square")
    pairs, encoded = make_pairs(6, image), (Encoded(), Encoded())
    loss = MultiLabel()
    loss.set_labels(SimpleNamespace(pos_weight=lambda: np.ones(2)))
    assert loss.terms(scores, pairs, encoded) == {} and not list(loss.parameters())
    assert torch.equal(loss(scores, pairs, encoded), triplet(scores))
    with pytest.raises(ValueError, match="no effect without dim.* set model.pos_weight"):
        MultiLabel(pos_weight=2.0)


def test_multilabel_names_what_is_wrong():
    scores, _, image = draw("2x2")
    sides = Encoded(torch.zeros(2, 4)), Encoded(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="needs num_labels"):
        MultiLabel(dim=4)
    loss = MultiLabel(dim=4, num_labels=3)
    with pytest.raises(ValueError, match=r"needs the labels \(C, K\)"):
        loss(scores, make_pairs(2, image), sides)
    with pytest.raises(ValueError, match="2 labels, but the loss has num_labels=3"):
        loss(scores, make_pairs(2, image, labels=torch.zeros(2, 2)), sides)
    with pytest.raises(ValueError, match="caption vectors are 3 wide, but the loss has dim=4"):
        loss(scores, make_pairs(2, image, labels=torch.zeros(2, 3)), sides)


# All losses -----------------------------------------------------------------------------------


class ToyMatcher(Matcher):
    """Linear encoders, one or more score levels."""

    def __init__(self, loss=None, levels=1, parts_only=False):
        super().__init__(loss)
        torch.manual_seed(0)
        self.image, self.word = nn.Linear(5, 6), nn.Embedding(20, 6)
        self.levels, self.parts_only = levels, parts_only

    def encode_images(self, images):
        parts = self.image(images.regions)
        return self.encoded(parts, images.mask)

    def encode_captions(self, captions):
        return self.encoded(self.word(captions.tokens), captions.tokens > 0)

    def encoded(self, parts, mask):
        vector = (parts * mask[..., None]).sum(1)
        return Encoded(None if self.parts_only else vector, parts, mask)

    def similarity(self, images, captions):
        return torch.cosine_similarity(images.parts.mean(1)[:, None], captions.parts.mean(1), -1)

    def training_scores(self, images, captions):
        main = self.similarity(images, captions)
        return {"main": (1.0, main)} | {str(n): (0.5, main**2) for n in range(1, self.levels)}

    def encode(self, pairs):
        return self.encode_images(pairs.images), self.encode_captions(pairs.captions)


def toy_pairs(size, image):
    g = torch.Generator().manual_seed(7)
    pairs = make_pairs(size, image)
    images = pairs.images._replace(regions=torch.randn(size, 1, 5, generator=g))
    tokens = torch.randint(1, 20, (len(image), 3), generator=g)
    return pairs._replace(images=images, captions=pairs.captions._replace(tokens=tokens))


def test_any_callable_is_a_loss():
    seen = {}

    def contrastive(scores, pairs, encoded):
        seen["encoded"], seen["pairs"] = encoded, pairs
        return nn.functional.cross_entropy(scores, pairs.captions.image)

    matcher, pairs = ToyMatcher(contrastive, levels=2), toy_pairs(4, [0, 1, 2, 3])
    terms = matcher.losses(pairs)
    assert terms.keys() == {"ranking_main", "ranking_1", "total"}
    scores = matcher.similarity(*matcher.encode(pairs))
    expected = contrastive(scores, pairs, None) + 0.5 * contrastive(scores**2, pairs, None)
    assert terms["total"].item() == pytest.approx(expected.item(), rel=1e-6)
    terms["total"].backward()
    assert matcher.image.weight.grad is not None
    with pytest.raises(ValueError, match="no loss"):
        ToyMatcher().losses(pairs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 3.0, 1e30])
def test_losses_are_finite_in_any_precision(dtype, scale, temperature):
    g = torch.Generator().manual_seed(0)
    scores = (torch.randn(5, 5, generator=g) * scale).to(dtype).requires_grad_()
    relevance = (torch.rand(5, 5, generator=g) * 10).to(dtype)
    vectors = (torch.randn(2, 5, 4, generator=g) * min(scale, 100)).to(dtype).requires_grad_()
    pairs = make_pairs(5, range(5), relevance=relevance, labels=torch.ones(5, 3, dtype=dtype))
    every = [
        Triplet(),
        Triplet(negatives="all", reduction="mean", mask_same_image=True),
        Triplet(negatives="top", top_k=3, warmup_steps=1),
        *(SAM(temperature=temperature, sampling=s) for s in SAMPLING),
        SAM(temperature=temperature, indexing="released", reference_topk=True, sampling="hardest"),
        MultiLabel(dim=4, num_labels=3, pos_weight=1e4),
    ]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        for loss in every:
            value = loss(scores, pairs, (Encoded(vectors[0]), Encoded(vectors[1])))
            assert value.dtype == torch.float32 and value.ndim == 0 and value.isfinite()
            (gradient,) = torch.autograd.grad(value, scores)
            assert gradient.isfinite().all()


def test_low_precision_scores_are_widened_before_the_margin_is_added():
    scores = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.bfloat16)
    assert float(triplet(scores, margin=0.2)) == pytest.approx(0.8, abs=1e-6)  # bf16: 0.796875


def test_triplet_names_what_is_wrong():
    scores, _, image = draw("several captions")
    with pytest.raises(ValueError, match="3 x 7 are not square"):
        triplet(scores)
    with pytest.raises(ValueError, match=r"must be \(7,\) int64 .* got \(3, 3\) torch.bool"):
        triplet(scores, torch.eye(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="negatives must be 'hardest', .*'all'.* got 'hard'"):
        Triplet(negatives="hard")
    with pytest.raises(ValueError, match="reduction must be 'sum' or 'mean', got 'avg'"):
        triplet(scores, torch.tensor(image), reduction="avg")
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        Triplet(top_k=0)


FILES = sorted(path.stem for path in Path(CONF, "loss").glob("*.yaml") if path.stem != "regions")


@pytest.mark.parametrize("name", FILES)  # regions are the neighborhood loss with other weights
def test_config_lists_the_constructor_arguments(name):
    node = OmegaConf.to_container(compose([f"loss={name}"]), resolve=False)["loss"]
    cls = get_class(node.pop("_target_"))
    assert cls is getattr(itm.losses, cls.__name__)
    if "warmup_steps" in node:
        assert node["warmup_steps"] == "${warmup_steps}"  # recipes set it for whichever loss
        assert node["margin"] == "${margin}"
        node["warmup_steps"], node["margin"] = 0, compose([f"loss={name}"]).margin
    parameters = inspect.signature(cls).parameters
    assert list(node.items()) == [(key, p.default) for key, p in parameters.items()]


def test_sam_checks_a_batch_before_it_leaves_the_host():
    """On a device the same check would make every training step wait."""
    relevance = torch.rand(3, 3)
    SAM(indexing="released").check_batch(make_pairs(3, range(3), relevance=relevance))
    with pytest.raises(ValueError, match="one caption per image"):
        SAM(indexing="released").check_batch(make_pairs(3, [0, 0, 1], relevance=relevance))
    relevance[1, 2] = torch.nan
    with pytest.raises(ValueError, match="relevance of 1 of 9 pairs is NaN"):
        SAM().check_batch(make_pairs(3, range(3), relevance=relevance))
    seen = []
    as_loss(CheckingLoss(seen)).check_batch(make_pairs(3, range(3)))
    assert len(seen) == 1  # a loss of your own may define the check, too


class CheckingLoss:
    def __init__(self, seen):
        self.seen = seen

    def __call__(self, scores, pairs, encoded):
        return scores.sum()

    def check_batch(self, pairs):
        self.seen.append(pairs)


@pytest.mark.parametrize("make", [SAM, MultiLabel])
def test_only_the_triplet_loss_draws_negatives_by_distance(make):
    with pytest.raises(ValueError, match="negatives must be .*hardest.*got 'distance'"):
        make(negatives="distance")


def test_values_without_a_meaning_are_refused():
    scores = torch.eye(3)
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        triplet(scores, negatives="top", top_k=0)
    for temperature in (0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=f"temperature must be above 0, got {temperature}"):
            infonce(scores, temperature=temperature)
    for rate in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a learning rate must be at least 0 and finite"):
            Matcher(Triplet()).lr = rate
