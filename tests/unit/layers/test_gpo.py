"""Test GPO against plain loops, and its promises on padding, types and sizes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from itm.layers import GPO
from itm.layers.gpo import TABLE, by_rank, position_codes


def plain_gru(gru, inputs, reverse):
    """Run one direction of a GRU over inputs (n, width), step by step."""
    suffix = "_l0_reverse" if reverse else "_l0"
    w, u, b, c = (
        getattr(gru, name + suffix).detach().numpy()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h, states = np.zeros(gru.hidden_size), []
    for x in inputs[::-1] if reverse else inputs:
        (ri, zi, ni), (rh, zh, nh) = np.split(w @ x + b, 3), np.split(u @ h + c, 3)
        r, z = 1 / (1 + np.exp(-(ri + rh))), 1 / (1 + np.exp(-(zi + zh)))
        h = (1 - z) * np.tanh(ni + r * nh) + z * h
        states.append(h)
    return np.array(states[::-1] if reverse else states)


def plain_weights(pool, n):
    codes = [
        [f(p * np.exp(-2 * k * np.log(10000) / 32)) for k in range(16) for f in (np.sin, np.cos)]
        for p in range(n)
    ]
    codes = np.array(codes)
    g = (plain_gru(pool.gru, codes, False) + plain_gru(pool.gru, codes, True)) / 2
    scores = g @ pool.score.weight.detach().numpy()[0] / 0.1
    e = np.exp(scores - scores.max())
    return e / e.sum()


def made(dtype=torch.float64):
    torch.manual_seed(0)
    return GPO().to(dtype)


def sets(counts, width=5, size=None, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    size = size or max(counts)
    mask = torch.arange(size) < torch.tensor(counts)[:, None]
    x = torch.randn(len(counts), size, width, dtype=dtype)
    return x.masked_fill(~mask[..., None], 1e6), mask


@pytest.mark.parametrize("counts", [[1], [3, 1, 7], [2, 2, 2], [TABLE + 5, 4, TABLE + 1]])
def test_it_equals_plain_loops(counts):
    pool = made()
    x, mask = sets(counts)
    found, weights = pool(x, mask).detach(), pool.weights(mask).detach()
    for row, n in enumerate(counts):
        theta = plain_weights(pool, n)
        np.testing.assert_allclose(weights[row, :n], theta, atol=1e-6)  # codes in float32
        assert not weights[row, n:].any()
        ranked = np.sort(x[row, :n].numpy(), 0)[::-1]
        np.testing.assert_allclose(found[row], theta @ ranked, atol=1e-5)


def test_a_mean_and_a_maximum_are_special_cases():
    pool = made()
    x, mask = sets([4, 6])
    with torch.no_grad():
        pool.score.weight.zero_()
    means = torch.stack([x[0, :4].mean(0), x[1].mean(0)])
    torch.testing.assert_close(pool(x, mask), means)
    pool.weights = lambda mask: F.one_hot(torch.zeros(2, dtype=torch.long), 6).double()
    torch.testing.assert_close(pool(x, mask), torch.stack([x[0, :4].amax(0), x[1].amax(0)]))


def test_neither_padding_nor_order_nor_company_change_a_result():
    pool = made()
    x, mask = sets([3, 5, 1])
    expected = pool(x, mask)
    torch.testing.assert_close(pool(x.flip(1), mask.flip(1)), expected)
    wide = F.pad(x, (0, 0, 0, TABLE), value=float("nan")), F.pad(mask, (0, TABLE))
    torch.testing.assert_close(pool(*wide), expected, atol=1e-12, rtol=0)
    for row, n in enumerate((3, 5, 1)):
        alone = pool(x[row : row + 1, :n], mask[row : row + 1, :n])
        torch.testing.assert_close(alone[0], expected[row], atol=1e-12, rtol=0)


def test_a_set_without_parts_gives_zero_and_no_gradient():
    pool = made()
    x, mask = sets([0, 2])
    x.requires_grad_()
    pooled = pool(x, mask)
    assert not pooled[0].any()
    gradients = torch.autograd.grad(pooled.sum(), [x, *pool.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients) and not gradients[0][0].any()
    assert pool(x[:, :0], mask[:, :0]).shape == (2, 5) and not pool(x[:, :0], mask[:, :0]).any()


def test_gradients_are_exact_and_reach_every_parameter():
    pool = made()
    x, mask = sets([3, 4, 2])
    x = x.masked_fill(~mask[..., None], 0).requires_grad_()

    def pooled(x, *values):
        state = dict(zip(dict(pool.named_parameters()), values, strict=True))
        return torch.func.functional_call(pool, state, (x, mask))

    leaves = (x, *pool.parameters())
    assert torch.autograd.gradcheck(pooled, leaves, fast_mode=True)
    gradients = torch.autograd.grad(pooled(*leaves)[:, 0].sum(), leaves)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_shares_add_up_to_the_result():
    pool = made()
    x, mask = sets([3, 5])
    shares = pool.shares(x, mask)
    torch.testing.assert_close((shares * x.masked_fill(~mask[..., None], 0)).sum(1), pool(x, mask))
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 5, dtype=x.dtype))


def test_codes_are_computed_in_float32():
    codes = position_codes(50, 32)
    assert codes.dtype == torch.float32 and codes.shape == (50, 32)
    assert torch.equal(codes[0], torch.tensor([0.0, 1.0] * 16))


def test_low_precision_pools_in_float32():
    pool = made(torch.float32)
    x, mask = sets([3, 6], dtype=torch.float32)
    expected = pool(x, mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pool(x, mask), expected)
        assert pool(x.bfloat16(), mask).dtype == torch.float32


@pytest.mark.parametrize("counts", [[1], [3, 1, 7, 0], [36] * 5, [TABLE + 5, 4]])
def test_sorting_by_keys_equals_a_sort_in_float64(counts):
    """Values of all signs and sizes, equal values and masks with gaps; no value is rounded."""
    torch.manual_seed(1)
    x, mask = sets(counts, width=70, dtype=torch.float32)
    x = x * 10.0 ** torch.randint(-30, 30, x.shape)
    x[:, ::3, ::2] = 0.0
    x[:, 1::3, ::2] = -2.5
    order = torch.randperm(x.shape[1])
    x, mask = x[:, order], mask[:, order]
    weights = torch.rand(mask.shape).masked_fill(
        torch.arange(len(order)) < (~mask).sum(1, keepdim=True), 0
    )
    ranked, shares = by_rank(x, weights, mask)
    expected, theirs = by_rank(x.double(), weights.double(), mask)
    assert torch.equal(ranked.double(), expected)
    real = x.double().masked_fill(~mask[..., None], 0)
    torch.testing.assert_close((shares * real).sum(1), (theirs * real).sum(1))
    assert not shares[~mask].any()
    for column, own in zip(shares.mT.flatten(0, 1), weights.repeat_interleave(70, 0), strict=True):
        assert torch.equal(column.sort()[0], own.sort()[0])  # each rank once, ties too
    assert by_rank(x, weights, mask, shares=False)[1] is None


@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf")])
def test_values_that_are_not_finite_are_not_hidden(value):
    pool = made(torch.float32)
    x, mask = sets([3, 5], dtype=torch.float32)
    expected = pool(x, mask)
    x[1, 2, 3] = value
    found = pool(x, mask)
    assert not found[1, 3].isfinite()
    torch.testing.assert_close(found[0], expected[0])


def test_gradients_in_float32_are_those_in_float64():
    counts = [4, 2, 6]
    gradients = []
    for dtype in (torch.float32, torch.float64):
        pool = made().to(dtype)
        x, mask = sets(counts)
        x = x.to(dtype).masked_fill(~mask[..., None], 0).requires_grad_()
        gradients.append(torch.autograd.grad(pool(x, mask).square().sum(), [x, *pool.parameters()]))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-4, rtol=1e-4)


def test_equal_parts_pool_to_themselves():
    x, mask = sets([6, 3], dtype=torch.float32)
    x[:] = torch.arange(5.0) - 2
    x.requires_grad_()
    pooled = made(torch.float32)(x, mask)
    torch.testing.assert_close(pooled, x[:, 0].detach())
    (gradient,) = torch.autograd.grad(pooled.sum(), x)
    torch.testing.assert_close(gradient.sum(1), torch.ones(2, 5))
