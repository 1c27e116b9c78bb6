"""Test re-ranking against plain loops over queries."""

import math
from inspect import signature

import numpy as np
import pytest

from itm.metrics import evaluate, ranks
from itm.metrics.protocols import Protocol
from itm.metrics.rerank import (
    BANK_METHODS,
    BETA,
    METHODS,
    Bank,
    evaluate_reranked,
    inverted_softmax,
    mutual_rank,
    places,
    qb_norm,
    rerank_rows,
    reranked,
    sinkhorn,
)


def cosines(seed=0, queries=7, items=5):
    return np.random.default_rng(seed).uniform(-1, 1, (queries, items))


def order(scores):
    return np.argsort(-scores, 1, kind="stable")


def test_defaults_are_those_of_the_papers():
    assert BETA == 20
    assert signature(qb_norm).parameters["k"].default == 1
    assert signature(sinkhorn).parameters["steps"].default == 10
    assert signature(mutual_rank).parameters["k"].default == 15


@pytest.mark.parametrize("size", [0, 4])
def test_inverted_softmax(size):
    s = cosines()
    bank = cosines(1, size) if size else None
    known = s if bank is None else bank
    found = inverted_softmax(s, bank, 3.0)
    for q in range(7):
        for g in range(5):
            total = sum(math.exp(3 * row[g]) for row in known)
            assert math.exp(found[q, g]) == pytest.approx(math.exp(3 * s[q, g]) / total)


@pytest.mark.parametrize("k", [1, 2])
def test_qb_norm_changes_queries_whose_best_item_is_a_hub(k):
    s, bank = cosines(), cosines(1, 3)
    hubs = {g for row in bank for g in sorted(range(5), key=lambda g: -row[g])[:k]}
    found, changed = qb_norm(s, bank, 3.0, k), inverted_softmax(s, bank, 3.0)
    kinds = set()
    for q in range(7):
        hub = int(s[q].argmax()) in hubs
        kinds.add(hub)
        np.testing.assert_allclose(found[q], changed[q] if hub else s[q])
    assert kinds == {True, False} or k == 2
    np.testing.assert_allclose(qb_norm(s), inverted_softmax(s))  # every query's best is a hub


def test_sinkhorn():
    s = cosines()
    plan = [[math.exp(4 * x) for x in row] for row in s]
    for _ in range(6):
        plan = [[x / sum(row) / 7 for x in row] for row in plan]
        sums = [sum(row[g] for row in plan) for g in range(5)]
        plan = [[row[g] / sums[g] / 5 for g in range(5)] for row in plan]
    np.testing.assert_allclose(np.exp(sinkhorn(s, 4.0, 6)), plan)
    balanced = np.exp(sinkhorn(s, 4.0, 500))
    np.testing.assert_allclose(balanced.sum(0), 1 / 5)
    np.testing.assert_allclose(balanced.sum(1), 1 / 7)


@pytest.mark.parametrize("k", [1, 3, 5, 99])
def test_mutual_rank(k, monkeypatch):
    monkeypatch.setattr("itm.metrics.rerank.BLOCK", 11)
    s = np.round(cosines(2), 1)  # with ties
    found = mutual_rank(s, k)
    for q in range(7):
        first = sorted(range(5), key=lambda g: (-s[q, g], g))

        def reverse(g, q=q):
            return sorted(range(7), key=lambda x: (-s[x, g], x)).index(q)

        changed = sorted(first[:k], key=reverse) + first[k:]
        assert order(found)[q].tolist() == changed
    np.testing.assert_array_equal(np.argsort(order(s), 1), places(s))


def test_both_directions_use_the_queries_of_their_own():
    s = cosines(3, 6, 30)
    for method in METHODS:
        found = reranked(s, method, 5.0)
        again = reranked(s.T, method, 5.0)
        np.testing.assert_allclose(found.i2t, again.t2i.T)
        np.testing.assert_allclose(found.t2i, again.i2t.T)
        assert found.i2t.shape == found.t2i.shape == s.shape


def test_a_hub_loses_what_it_took():
    """An image that is near to every caption hides the right ones; all but mutual rank undo it."""
    s = 0.4 * np.eye(6) + np.random.default_rng(0).normal(0, 0.02, (6, 6))
    s[0] += 0.6
    plain = evaluate(s, np.arange(6))["t2i_r1"]
    for method in ("inverted_softmax", "qb_norm", "sinkhorn"):
        assert evaluate_reranked(s, np.arange(6), "full", method)["t2i_r1"] > plain + 50


def test_folds_are_re_ranked_by_themselves():
    s, owner = cosines(4, 6, 12), np.arange(12) // 2
    for method in METHODS:
        found = evaluate_reranked(s, owner, Protocol(folds=2), method)
        halves = []
        for i in (slice(3), slice(3, 6)):
            c = slice(2 * i.start if i.start else 0, 2 * i.stop)
            changed = reranked(s[i, c], method)
            own = owner[c] - (i.start or 0)
            i2t, t2i = ranks(changed.i2t, own)[0], ranks(changed.t2i, own)[1]
            halves.append([100 * np.mean(i2t < 1), 100 * np.mean(t2i < 1)])
        expected = np.mean(halves, 0)
        np.testing.assert_allclose([found["i2t_r1"], found["t2i_r1"]], expected)
    rows = rerank_rows({"a": s, "b": -s}, owner, "full", ["sinkhorn", "qb_norm"])
    assert list(rows) == ["a (sinkhorn)", "a (qb_norm)", "b (sinkhorn)", "b (qb_norm)"]


def test_a_bank_serves_both_directions_and_every_fold():
    s, owner = cosines(4, 6, 12), np.arange(12) // 2
    bank = Bank(cosines(5, 9, 12), cosines(6, 6, 20))
    for name, method in (("inverted_softmax", inverted_softmax), ("qb_norm", qb_norm)):
        found = reranked(s, name, 5.0, bank)
        np.testing.assert_allclose(found.i2t, method(s, bank.images, 5.0))
        np.testing.assert_allclose(found.t2i, method(s.T, bank.captions.T, 5.0).T)
        assert np.abs(found.i2t - reranked(s, name, 5.0).i2t).max() > 0.01
        folds = evaluate_reranked(s, owner, Protocol(folds=2), name, 5.0, bank)
        halves = []
        for i, c in ((slice(3), slice(6)), (slice(3, 6), slice(6, 12))):
            own = Bank(bank.images[:, c], bank.captions[i])
            halves.append(evaluate_reranked(s[i, c], owner[:6], "full", name, 5.0, own)["rsum"])
        assert folds["rsum"] == pytest.approx(np.mean(halves))
        rows = rerank_rows({"a": s}, owner, "full", [name], 5.0, {"a": bank})
        expected = evaluate_reranked(s, owner, "full", name, 5.0, bank)
        assert rows == {f"a ({name}, bank)": expected}
    for method in set(METHODS) - set(BANK_METHODS):
        with pytest.raises(ValueError, match=f"rerank={method} reads all test queries and no bank"):
            reranked(s, method, bank=bank)


def test_a_query_alone_can_be_re_ranked_with_a_bank():
    s, bank = cosines(4, 6, 12), Bank(cosines(5, 9, 12), cosines(6, 6, 20))
    for method in BANK_METHODS:
        whole = reranked(s, method, 5.0, bank)
        for i in range(6):
            one = reranked(s[i : i + 1], method, 5.0, Bank(bank.images, bank.captions[i : i + 1]))
            np.testing.assert_allclose(one.i2t[0], whole.i2t[i])


def test_large_scores_do_not_overflow():
    s = 1e4 * cosines()
    for method in METHODS:
        found = reranked(s, method)
        assert np.isfinite(found.i2t).all() and np.isfinite(found.t2i).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: reranked(cosines(), "qbnorm"),
            "rerank must be 'inverted_softmax', .* got 'qbnorm'",
        ),
        (lambda: reranked(cosines(), "sinkhorn", 0), "beta must be above 0, got 0"),
        (lambda: mutual_rank(cosines(), 0), "k must be at least 1, got 0"),
        (lambda: qb_norm(cosines(), k=0), "k must be at least 1, got 0"),
        (
            lambda: qb_norm(cosines(), cosines(1, 3, 4)),
            r"bank must be \(queries, 5\).* got \(3, 4\)",
        ),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_type_of_scores_changes_no_order_and_nan_is_refused():
    scores = np.random.default_rng(0).integers(0, 200, (6, 7))
    for method in METHODS:
        for kind in ("u1", "i4", "f4"):
            expected = reranked(scores.astype(float), method)
            found = reranked(scores.astype(kind), method)
            np.testing.assert_allclose(found.i2t, expected.i2t)
            np.testing.assert_allclose(found.t2i, expected.t2i)
    with pytest.raises(ValueError, match="NaN"):
        reranked(np.where(np.eye(6, 7), np.nan, scores), "mutual_rank")


def test_images_of_captions_are_checked():
    """With folds, captions of no image vanished from the mean."""
    for protocol in ("full", Protocol(folds=2)):
        with pytest.raises(ValueError, match="caption_image must lie in 0..3 for 4 images"):
            evaluate_reranked(np.eye(4, 6), [0, 1, 2, 3, -1, 9], protocol, "sinkhorn")
    s = cosines(4, 6, 30)
    for protocol in ("full", Protocol(folds=2)):
        found = evaluate_reranked(s, None, protocol, "sinkhorn")
        assert found == evaluate_reranked(s, np.arange(30) // 5, protocol, "sinkhorn")
        assert found == evaluate_reranked(s, (np.arange(30) // 5).tolist(), protocol, "sinkhorn")


@pytest.mark.parametrize("method", ["qb_norm", "inverted_softmax"])
def test_a_bank_with_nan_is_refused(method):
    scores = np.random.default_rng(0).normal(size=(4, 20))
    bank = Bank(np.full((3, 20), np.nan), np.ones((4, 7)))
    with pytest.raises(ValueError, match="the bank contains NaN"):
        evaluate_reranked(scores, np.arange(20) // 5, "full", method, bank=bank)
