"""Check that the combined metrics equal those of the single functions."""

import numpy as np
import pytest

from itm.metrics.all_metrics import evaluate_all
from itm.metrics.pmrp import pmrp
from itm.metrics.protocols import Protocol
from itm.metrics.retrieval import evaluate_queries


def test_each_metric_is_added_where_its_data_is_given():
    rng = np.random.default_rng(0)
    scores, owner = rng.normal(size=(6, 12)), np.arange(12) // 2
    relevance = rng.random((12, 6))
    codes = rng.integers(0, 2, (6, 3)).astype(np.float32)
    codes[0] = 0  # not annotated
    plain, ranks = evaluate_all(scores, owner)
    expected, own = evaluate_queries(scores, owner)
    assert plain == expected
    for a, b in zip(ranks, own, strict=True):
        np.testing.assert_array_equal(a, b)
    both, _ = evaluate_all(scores, owner, relevance=relevance, codes=codes)
    assert both == evaluate_queries(scores, owner, "full", relevance)[0] | pmrp(
        scores, codes, owner, annotated=codes.max(1) > 0
    )


def test_sentences_add_graded_metrics_of_their_own():
    rng = np.random.default_rng(0)
    scores, owner, sentences = rng.normal(size=(6, 12)), np.arange(12) // 2, rng.random((12, 6))
    for protocol in ("full", Protocol(folds=2)):
        plain, _ = evaluate_all(scores, owner, protocol)
        both, _ = evaluate_all(scores, owner, protocol, sentences=sentences)
        graded = evaluate_queries(scores, owner, protocol, sentences)[0]
        added = {k.replace("_text_", "_"): v for k, v in both.items() if "_text_" in k}
        assert plain | added == graded and both.keys() - plain.keys() == {
            k.replace("_", "_text_", 1) for k in added
        }


@pytest.mark.parametrize("codes", [np.zeros((6, 3), np.float32), np.zeros((6, 0), np.float32)])
def test_pmrp_without_categories_is_an_error(codes):
    with pytest.raises(ValueError, match="none of the 6 images of the split has both"):
        evaluate_all(np.eye(6), np.arange(6), codes=codes)
