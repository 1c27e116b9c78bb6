"""The packed GRU equals torch's, in states and gradients."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from itm.layers.gru import run_gru, states_of, steps
from itm.layers.packing import by_step


@pytest.mark.parametrize("lengths", [[3, 7, 1, 4, 4], [1], [2, 2, 2], [1, 9]])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_states_and_gradients_equal_those_of_torch(lengths, layers, bidirectional):
    torch.manual_seed(0)
    rnn = nn.GRU(6, 5, layers, bidirectional=bidirectional).double()
    rows, sizes, _ = by_step(lengths, 9, torch.device("cpu"))
    words = torch.randn(9 * len(lengths), 6, dtype=torch.float64)[rows]
    found = []
    for run in (lambda x: rnn(PackedSequence(x, sizes))[0].data, lambda x: run_gru(rnn, x, sizes)):
        given = words.clone().requires_grad_()
        states = run(given)
        rnn.zero_grad()
        (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
        found.append([states.detach(), given.grad, *(p.grad for p in rnn.parameters())])
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)


def test_float32_stays_within_rounding():
    torch.manual_seed(0)
    rnn = nn.GRU(30, 40, bidirectional=True)
    rows, sizes, _ = by_step([12, 5, 20, 9], 20, torch.device("cpu"))
    words = torch.randn(len(rows), 30)
    expected = rnn(PackedSequence(words, sizes))[0].data
    torch.testing.assert_close(run_gru(rnn, words, sizes), expected, rtol=0, atol=4e-7)


def test_frozen_words_and_a_frozen_layer_get_no_gradient():
    rnn = nn.GRU(3, 4)
    rows, sizes, _ = by_step([2, 3], 3, torch.device("cpu"))
    run_gru(rnn, torch.randn(len(rows), 3), sizes).sum().backward()
    assert rnn.weight_ih_l0.grad is not None
    rnn.requires_grad_(False)
    assert not run_gru(rnn, torch.randn(len(rows), 3), sizes).requires_grad


def test_steps_continue_the_longest_sequences():
    assert steps([3, 2, 1], reverse=False) == [
        (slice(0, 3), slice(0, 0)), (slice(3, 5), slice(0, 2)), (slice(5, 6), slice(3, 4)),
    ]  # fmt: skip
    assert steps([3, 1], reverse=True) == [(slice(3, 4), slice(0, 0)), (slice(0, 3), slice(3, 4))]


@pytest.mark.parametrize("learns", [False, True])
def test_states_of_a_padded_batch(learns):
    torch.manual_seed(0)
    rnn, x = nn.GRU(6, 5, batch_first=True).double(), torch.randn(3, 4, 6, dtype=torch.float64)
    found = []
    for run in (lambda x: rnn(x)[0], lambda x: states_of(rnn, x)):
        given = x.clone().requires_grad_()
        with torch.set_grad_enabled(learns):
            states = run(given)
        found.append([states.detach()])
        if learns:
            above = torch.linspace(-1, 1, states.numel()).view(states.shape)
            found[-1] += torch.autograd.grad((states * above).sum(), [given, *rnn.parameters()])
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)
