"""Values that would give a plausible number with another meaning are refused."""

import numpy as np
import pytest

from itm.metrics.pmrp import pmrp
from itm.metrics.rerank import METHODS, reranked
from itm.metrics.significance import compare, hits

SCORES = np.random.default_rng(0).standard_normal((4, 8))
OWN = np.repeat(np.arange(4), 2)
CODES = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]])


def test_numbers_of_objects_are_no_categories():
    """A category counted twice would make a distance negative, and every item plausible."""
    counts = CODES * [3, 2, 1]
    with pytest.raises(ValueError, match="codes > 0"):
        pmrp(SCORES, counts, OWN)
    assert pmrp(SCORES, counts > 0, OWN) == pmrp(SCORES, CODES, OWN)
    unknown = np.where(CODES.any(1, keepdims=True), CODES, np.nan)
    assert pmrp(SCORES, unknown, OWN)["i2t_pmrp"] > 0  # NaN is an unknown code


def test_rows_are_no_mask_of_annotated_images():
    with pytest.raises(ValueError, match="a mask in place of rows"):
        pmrp(SCORES, CODES, OWN, annotated=np.array([0, 1, 2, 3]))
    mask = np.array([1, 1, 0, 1])
    assert pmrp(SCORES, CODES, OWN, annotated=mask) == pmrp(SCORES, CODES, OWN, annotated=mask > 0)


def test_a_mean_over_no_query_is_refused():
    with pytest.raises(ValueError, match="none has one"):
        pmrp(SCORES, np.eye(4), OWN, thresholds=(0,), own_is_positive=False)


def test_a_caption_without_an_answer_is_no_hit():
    ranks = {"i2t": np.array([0, 3]), "t2i": np.array([0, -1, 7]), "image": np.array([0, 0, 1])}
    np.testing.assert_array_equal(hits(ranks), [[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 1]])
    answered = {**ranks, "t2i": np.array([0, 9, 7])}
    assert compare([ranks], [answered], samples=20).value == pytest.approx(-100 / 3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("beta", [0.0, -1.0, np.nan, np.inf])
def test_an_inverse_temperature_is_a_number_above_0(method, beta):
    with pytest.raises(ValueError, match="beta must be above 0, got"):
        reranked(SCORES, method, beta)


@pytest.mark.parametrize("method", METHODS)
def test_pairs_without_a_score_are_not_added_up(method):
    """They gave NaN, and the message looked for zero vectors."""
    scores = SCORES.copy()
    scores[:, 0] = -np.inf
    if method == "mutual_rank":  # reads places only
        assert np.isfinite(reranked(scores, method).i2t).all()
        return
    with pytest.raises(ValueError, match=f"rerank={method} adds up .* infinite: give a score"):
        reranked(scores, method)
