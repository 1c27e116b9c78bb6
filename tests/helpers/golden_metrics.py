"""Compare with what the originals computed and wrote: ranks and recalls, options."""

import numpy as np
import pytest

from itm.metrics.retrieval import ranks, summary
from itm.published.convert import TRAINING


def check_metrics(expected, scores, prefix=""):
    """Ranks, the best of each query, and what is computed from them; every image has 5 captions."""
    i2t, t2i = ranks(scores, [c // 5 for c in range(scores.shape[1])])
    np.testing.assert_array_equal(i2t, expected[f"{prefix}i2t_ranks"])
    np.testing.assert_array_equal(t2i, expected[f"{prefix}t2i_ranks"])
    np.testing.assert_array_equal(scores.argmax(1), expected[f"{prefix}i2t_top1"])
    np.testing.assert_array_equal(scores.argmax(0), expected[f"{prefix}t2i_top1"])
    report = summary(i2t, t2i)
    check_recalls(report, expected[f"{prefix}i2t_metrics"], expected[f"{prefix}t2i_metrics"])
    assert report["rsum"] == pytest.approx(float(expected[f"{prefix}rsum"]))


def check_recalls(report, i2t, t2i, rtol=1e-7):
    """R@1, R@5, R@10, median and mean rank of both directions."""
    for way, expected in (("i2t", i2t), ("t2i", t2i)):
        found = [report[f"{way}_{key}"] for key in ("r1", "r5", "r10", "medr", "meanr")]
        np.testing.assert_allclose(found, expected, rtol=rtol, err_msg=way)


def check_options(original, written, rest=()):
    """The original finds all its options; those that weights depend on are those it had."""
    assert original.keys() <= written.keys()
    told = original.keys() - TRAINING.keys() - set(rest)
    assert {name: written[name] for name in told} == {name: original[name] for name in told}
