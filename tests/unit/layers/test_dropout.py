"""Dropout on a CPU: the same distribution as torch's, the same extremes, gradient and types."""

import pytest
import torch

from itm.layers.dropout import Dropout, factors


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_are_dropped_with_probability_p_and_the_others_divided(p, dtype):
    x = torch.ones(2000, 2000, dtype=dtype)  # enough to see uniform numbers of 8 bits
    y = Dropout(p)(x)
    assert y.dtype == dtype
    assert set(y.unique().tolist()) == {0.0, (torch.ones((), dtype=dtype) / (1 - p)).item()}
    dropped = (y == 0).double().mean().item()
    assert abs(dropped - p) < 5 * (p * (1 - p) / x.numel()) ** 0.5


def test_rows_and_columns_are_independent():
    """The covariance of neighbours along either dimension is that of independent numbers."""
    kept = (factors(torch.empty(1000, 1000), 0.4) > 0).double() - 0.6
    for a, b in ((kept[1:], kept[:-1]), (kept[:, 1:], kept[:, :-1])):
        assert abs((a * b).mean().item()) < 5 * 0.24 / 1000


def test_the_gradient_passes_what_stayed():
    x = torch.randn(40, 30, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.3)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x, y)
    assert set(x.grad.unique().tolist()) == {0.0, 1 / 0.7}


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_extremes_equal_those_of_torch(p):
    x = torch.randn(5, 7)
    torch.testing.assert_close(Dropout(p)(x), torch.nn.Dropout(p)(x), rtol=0, atol=0)
    assert torch.equal(factors(x, p), torch.full_like(x, 1 - p))


def test_evaluation_and_probability_0_change_and_draw_nothing():
    before = torch.get_rng_state()
    x = torch.randn(5, 7, generator=torch.Generator())
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_an_impossible_probability_is_refused():
    with pytest.raises(ValueError, match="probability"):
        Dropout(1.5)
