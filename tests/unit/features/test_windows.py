import numpy as np
import pytest

from itm.features.windows import coverage, windows


def test_the_default_windows():
    boxes = windows()
    assert boxes.shape == (36, 4) and boxes[0].tolist() == [0, 0, 1, 1]
    assert boxes.min() >= 0 and boxes.max() <= 1 + 1e-6
    assert len(np.unique(boxes.round(5), axis=0)) == 36
    grid = windows([[3, 2]], overlap=0)
    areas = (grid[:, 2] - grid[:, 0]) * (grid[:, 3] - grid[:, 1])
    np.testing.assert_allclose(areas, 1 / 6, rtol=1e-6)
    for wrong in ([], [[0, 1]]):
        with pytest.raises(ValueError, match="expected pairs"):
            windows(wrong)


def test_coverage_by_counting_points():
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 0.7, (5, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.3, (5, 2))], 1)
    weights = coverage(boxes, 3, 4)
    points = (np.arange(1200) + 0.5) / 1200
    for (x1, y1, x2, y2), weight in zip(boxes, weights, strict=True):
        across = np.bincount((points[(points > x1) & (points < x2)] * 4).astype(int), minlength=4)
        down = np.bincount((points[(points > y1) & (points < y2)] * 3).astype(int), minlength=3)
        expected = np.outer(down / down.sum(), across / across.sum()).ravel()
        np.testing.assert_allclose(weight, expected, atol=5e-3)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)


def test_a_box_without_area_takes_its_cell():
    weights = coverage(np.array([[0.9, 0.1, 0.9, 0.1], [1, 1, 1, 1]]), 2, 2)
    assert weights.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
