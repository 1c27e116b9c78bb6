"""Weights brought along together equal those that autocast casts one by one."""

import pytest
import torch
from torch import nn

from itm.layers.weights import joined, linear_maps


@pytest.mark.parametrize("low", [False, True])
def test_joined_layers_equal_the_layers_and_have_their_gradients(low):
    torch.manual_seed(0)
    first, second, third = nn.Linear(5, 3), nn.Linear(5, 4), nn.Linear(7, 2)
    x, y = torch.randn(6, 5), torch.randn(6, 7)
    parameters = [p for layer in (first, second, third) for p in layer.parameters()]
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        weight, bias = joined((first.weight, second.weight), (first.bias, second.bias))
        (of_y,) = linear_maps(third)
        ours = torch.cat([nn.functional.linear(x, weight, bias), of_y(y)], 1)
        plain = torch.cat([first(x), second(x), third(y)], 1)
    assert weight.dtype == bias.dtype == (torch.bfloat16 if low else torch.float32)
    assert ours.dtype == plain.dtype
    torch.testing.assert_close(ours, plain)
    above = torch.randn(ours.shape).to(ours.dtype)
    found = torch.autograd.grad(ours, parameters, above)
    for own, other in zip(found, torch.autograd.grad(plain, parameters, above), strict=True):
        assert own.dtype == torch.float32
        torch.testing.assert_close(
            own, other, rtol=1e-2 if low else 1e-5, atol=1e-2 if low else 1e-6
        )


def test_a_frozen_layer_gets_no_gradient():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        maps = linear_maps(first, second)
        total = maps[1](maps[0](torch.ones(1, 2))).sum()
    total.backward()
    assert first.weight.grad is not None and second.weight.grad is None
