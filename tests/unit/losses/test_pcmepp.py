"""Test PCME++'s loss: the original's numbers, plain loops, labels, other encodings, bad input."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from goldens_path import case, read_npz
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from toy import MeanMatcher

from itm.batch import Encoded, Pairs
from itm.data.padding import make_captions, make_images
from itm.layers import csd, csd_vectors, total_variance, wasserstein
from itm.losses import PCMEPP, Triplet, pcmepp
from itm.losses.pcmepp import divergence, pseudo_positives

ONE = ["csd_default", "csd_no_pseudo", "csd_duplicates", "csd_duplicates_smoothed",
       "csd_other_scale", "wasserstein", "vib_ignored"]  # fmt: skip
SIDES = ("img", "cap")


def golden(name):
    folder = case(f"pcmepp/{name}")
    expected = {key: torch.from_numpy(np.array(x)) for key, x in
                read_npz(folder / "expected.npz").items()}  # fmt: skip
    options = json.loads((folder / "options.json").read_text())
    return expected, options


def made(options):
    kind = {"csd": "csd", "wdist": "wasserstein"}[options["prob_distance"]]
    names = ("init_negative_scale", "init_shift", "smoothness_alpha", "vib_beta")
    smoothing = options.get("label_smoothing", 0.0)
    chosen = {name: options[name] for name in names}
    return PCMEPP(**chosen, distance=kind, label_smoothing=smoothing).double()


def leaves(expected, suffix=""):
    return {f"{x}_{side}": expected[f"{x}_{side}{suffix}"].clone().requires_grad_()
            for side in SIDES for x in ("mu", "s")}  # fmt: skip


def encoded(given):
    return tuple(
        Encoded(given[f"mu_{side}"], aux={"log_var": given[f"s_{side}"]}) for side in SIDES
    )


def pairs(image_ids, size):
    ids = range(size) if image_ids is None else image_ids.tolist()
    features = np.zeros((size, 1, 3), np.float32)
    return Pairs(
        make_images(features, ids), make_captions([[1, 2]] * size, range(size), range(size))
    )


def check_gradients(loss, objective, given, expected):
    loss.backward()
    for name, leaf in given.items():
        np.testing.assert_allclose(leaf.grad, expected[f"grad_{name}"], rtol=1e-10, atol=1e-15)
    for name in ("shift", "negative_scale"):
        found = getattr(objective, name).grad
        np.testing.assert_allclose(found, expected[f"grad_{name}"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ONE)
def test_golden_loss_and_gradients(name):
    expected, options = golden(name)
    objective, given = made(options), leaves(expected)
    size = len(expected["mu_img"])
    batch = pairs(expected.get("image_ids"), size)
    labels = objective.labels(torch.zeros(size, size, dtype=torch.float64), batch)
    np.testing.assert_allclose(labels, expected["matched"], rtol=1e-12)
    distance = (csd if objective.distance == "csd" else wasserstein)(
        *(given[f"{x}_{side}"] for side in SIDES for x in ("mu", "s"))
    )
    np.testing.assert_allclose(distance.detach(), expected["distance"], rtol=1e-12)
    logits = objective._logits(distance).detach()
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-12)
    if options["smoothness_alpha"]:
        for way, z, y in (("i2t", logits, labels), ("t2i", logits.T, labels.T)):
            np.testing.assert_array_equal(pseudo_positives(z, y), expected[f"matched_pseudo_{way}"])
    loss = objective(torch.full((size, size), torch.nan), batch, encoded(given))
    assert float(loss.detach()) == pytest.approx(float(expected["loss"]), rel=1e-12)
    check_gradients(loss, objective, given, expected)
    if "test_scores" in expected:
        images, captions = (
            csd_vectors(given[f"mu_{side}"], given[f"s_{side}"], kind).detach()
            for side, kind in zip(SIDES, ("image", "caption"), strict=True)
        )
        np.testing.assert_allclose(images @ captions.T, expected["test_scores"], rtol=1e-12)


def test_golden_mixture():
    expected, options = golden("csd_mixup")
    objective, given = made(options), leaves(expected)
    size, lam, e = len(expected["mu_img"]), expected["lam"], options["mixup_smoothing"]
    hot = torch.eye(size, dtype=torch.float64) * (1 - 2 * e) + e
    labels = lam[:, None] * hot + (1 - lam[:, None]) * hot.flip(0)
    np.testing.assert_allclose(labels, expected["matched"], rtol=1e-12)
    sides = [(given[f"mu_{side}"], given[f"s_{side}"]) for side in SIDES]
    logits = objective._logits(csd(*sides[0], *sides[1]))
    loss = pcmepp(logits, labels, options["smoothness_alpha"])
    loss = loss + options["vib_beta"] * sum(divergence(*side) for side in sides)
    assert float(loss.detach()) == pytest.approx(float(expected["loss"]), rel=1e-12)
    check_gradients(loss, objective, given, expected)


def test_golden_two_processes():
    """The original scores own rows with all columns; `pcmepp` takes any rectangle."""
    expected, options = golden("two_processes")
    objective, given = made(options), leaves(expected)
    own = {side: (given[f"mu_{side}"], given[f"s_{side}"]) for side in SIDES}
    every = {
        side: [torch.cat([x, expected[f"{key}_{side}_other"]]) for key, x in
               zip(("mu", "s"), own[side], strict=True)] for side in SIDES
    }  # fmt: skip
    losses = {}
    for rows, columns in (SIDES, SIDES[::-1]):
        logits = objective._logits(csd(*own[rows], *every[columns]))
        loss = pcmepp(logits, expected["matched_extended"], options["smoothness_alpha"])
        kl = divergence(*own[rows]) + divergence(*every[columns])
        losses[rows] = loss + options["vib_beta"] * kl
        found = float(losses[rows].detach())
        assert found == pytest.approx(float(expected[f"loss_{rows}"]), rel=1e-12)
    check_gradients((losses["img"] + losses["cap"]) / 2, objective, given, expected)


def test_pseudo_positives_equal_a_loop():
    torch.manual_seed(0)
    for shape in ((5, 5), (3, 7), (1, 4), (6, 1)):
        logits, labels = torch.randn(shape), (torch.rand(shape) * 3).round() / 3
        expected = labels.clone()
        for i in range(shape[0]):
            match = labels[i].tolist().index(max(labels[i].tolist()))
            for j in range(shape[1]):
                if logits[i, j] >= logits[i, match]:
                    expected[i, j] = labels[i, match]
        assert torch.equal(pseudo_positives(logits, labels), expected)


def plain_pcmepp(given, index, image, a, b, alpha, beta, e, kind):
    """The whole loss, one pair after the other."""
    rows, columns = range(len(given["mu_img"])), range(len(given["mu_cap"]))

    def distance(i, c):
        mu, nu = given["mu_img"][i], given["mu_cap"][c]
        s, r = given["s_img"][i], given["s_cap"][c]
        apart = sum((x - y) ** 2 for x, y in zip(mu, nu, strict=True))
        if kind == "csd":
            return apart + sum(math.exp(x) + math.exp(y) for x, y in zip(s, r, strict=True))
        pairs = zip(s, r, strict=True)
        return apart + sum((math.exp(x / 2) - math.exp(y / 2)) ** 2 for x, y in pairs)

    def entropy(z, y):
        def both(x):
            return math.log1p(math.exp(-abs(x))) + max(-x, 0)

        terms = [y[i][c] * both(z[i][c]) + (1 - y[i][c]) * both(-z[i][c])
                 for i in range(len(z)) for c in range(len(z[0]))]  # fmt: skip
        return sum(terms) / len(terms)

    def raised(z, y):
        found = []
        for scores, labels in zip(z, y, strict=True):
            match = labels.index(max(labels))
            found.append([max(labels) if x >= scores[match] else label
                          for x, label in zip(scores, labels, strict=True)])  # fmt: skip
        return found

    def spread(side):
        values = [-0.5 * (1 + s - mu**2 - math.exp(s))
                  for means, variances in zip(given[f"mu_{side}"], given[f"s_{side}"], strict=True)
                  for mu, s in zip(means, variances, strict=True)]  # fmt: skip
        return sum(values) / len(values)

    z = [[-a * distance(i, c) + b for c in columns] for i in rows]
    y = [[1 - e if index[i] == index[image[c]] else e for c in columns] for i in rows]
    z_t, y_t = ([list(x) for x in zip(*m, strict=True)] for m in (z, y))
    loss = 2 * entropy(z, y) + beta * (spread("img") + spread("cap"))
    return loss + alpha * (entropy(z, raised(z, y)) + entropy(z_t, raised(z_t, y_t)))


@pytest.mark.parametrize("kind", ["csd", "wasserstein"])
@pytest.mark.parametrize(
    ("index", "image"),
    [
        ([0], [0]),
        ([3, 1, 2], [0, 1, 2]),
        ([3, 1, 3, 3], [0, 1, 2, 3]),
        ([5, 6, 7], [0, 0, 2]),  # an image without captions
    ],
)
def test_the_loss_equals_a_plain_loop(kind, index, image):
    torch.manual_seed(len(index))
    sizes = {"img": len(index), "cap": len(image)}
    given = {f"{x}_{side}": torch.randn(n, 3, dtype=torch.float64)
             for side, n in sizes.items() for x in ("mu", "s")}  # fmt: skip
    given["mu_cap"][0] = given["mu_img"][0]  # a distance of nothing but the variances
    batch = Pairs(
        make_images(np.zeros((len(index), 1, 2), np.float32), index),
        make_captions([[1, 2]] * len(image), range(len(image)), image),
    )
    for alpha, beta, e in ((0.1, 1e-4, 0.0), (0.7, 0.2, 0.1), (0.0, 0.0, 0.0)):
        loss = PCMEPP(1.7, 4.0, kind, alpha, beta, e).double()
        scores = torch.full((len(index), len(image)), torch.nan)
        found = loss(scores, batch, encoded(given)).item()
        plain = {key: x.tolist() for key, x in given.items()}
        expected = plain_pcmepp(plain, index, image, 1.7, 4.0, alpha, beta, e, kind)
        assert found == pytest.approx(expected, rel=1e-6)  # 1.7 is a float32


def test_distances_equal_plain_loops():
    torch.manual_seed(0)
    mu, s, nu, r = (torch.randn(n, 4, dtype=torch.float64) for n in (3, 3, 5, 5))
    for i in range(3):
        for j in range(5):
            apart = (mu[i] - nu[j]).square().sum()
            variance = s[i].exp().sum() + r[j].exp().sum()
            deviation = (s[i].exp().sqrt() - r[j].exp().sqrt()).square().sum()
            torch.testing.assert_close(csd(mu, s, nu, r)[i, j], apart + variance)
            torch.testing.assert_close(wasserstein(mu, s, nu, r)[i, j], apart + deviation)
    torch.testing.assert_close(total_variance(s), s.exp().sum(1))


def test_rows_of_the_same_image_match_each_others_captions():
    batch = pairs(torch.tensor([4, 2, 4]), 3)
    labels = PCMEPP(label_smoothing=0.1).labels(torch.zeros(3, 3), batch)
    expected = [[0.9, 0.1, 0.9], [0.1, 0.9, 0.1], [0.9, 0.1, 0.9]]
    torch.testing.assert_close(labels, torch.tensor(expected))


def test_points_are_compared_by_their_scores():
    scores = torch.randn(4, 4)
    points = Encoded(torch.randn(4, 3))
    loss = PCMEPP(smoothness_alpha=0)
    expected = 2 * bce(5 - 5 * (2 - 2 * scores), torch.eye(4))
    torch.testing.assert_close(loss(scores, pairs(None, 4), (points, points)).detach(), expected)
    torch.testing.assert_close(loss(scores).detach(), expected)
    vectors = torch.nn.functional.normalize(torch.randn(4, 3), dim=-1)
    certain = Encoded(vectors, aux={"log_var": torch.full((4, 3), -100.0)})
    gaussian = PCMEPP(smoothness_alpha=0, vib_beta=0)(scores, None, (certain, certain))
    torch.testing.assert_close(gaussian, loss(vectors @ vectors.T), atol=1e-5, rtol=1e-5)


def test_scale_and_shift_are_learnt_without_weight_decay():
    matcher = MeanMatcher(20, 5, 6, loss=PCMEPP())
    matcher.optimizer = partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5)
    main, own = matcher.configure_optimizers().param_groups
    assert own["weight_decay"] == 0 and main["weight_decay"] == 0.5 and own["lr"] == 0.1
    assert {id(p) for p in own["params"]} == {id(p) for p in matcher.loss.parameters()}
    rest = {id(p) for p in matcher.parameters()} - {id(p) for p in matcher.loss.parameters()}
    assert {id(p) for p in main["params"]} == rest
    matcher.loss = Triplet()
    assert len(matcher.configure_optimizers().param_groups) == 1


def test_low_precision_is_computed_in_float32():
    expected, options = golden("csd_default")
    given = {key: x.float() for key, x in leaves(expected).items()}
    objective = made(options).float()
    exact = objective(torch.zeros(8, 8), None, encoded(given))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(objective(torch.zeros(8, 8), None, encoded(given)), exact)


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="distance must be 'csd' or 'wasserstein', got 'wdist'"):
        PCMEPP(distance="wdist")
    with pytest.raises(ValueError, match="label_smoothing must be from 0 to below 0.5, got 0.7"):
        PCMEPP(label_smoothing=0.7)
    with pytest.raises(ValueError, match=r"labels must have .* \(2, 3\), got \(3, 2\)"):
        pcmepp(torch.zeros(2, 3), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"no pairs is undefined, got logits \(0, 3\)"):
        pcmepp(torch.zeros(0, 3), torch.zeros(0, 3))
