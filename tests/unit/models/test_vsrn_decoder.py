"""The decoder as one function gives the numbers and gradients of its steps, one after another."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from itm.data.padding import make_captions
from itm.models.vsrn.captioner import Captioner, Memory, teacher


def step_by_step(captioner, regions, mask, captions):
    """Run `Captioner.step` word by word; differentiate automatically."""
    inputs, targets = teacher(captions, captioner.max_len)
    image, sizes = captions.image[inputs.sorted_indices], inputs.batch_sizes.tolist()
    memory, hidden = captioner.encode(regions, mask)
    memory, hidden, states = memory.take(image), hidden[image], []
    for words, size in zip(captioner.embed(inputs.data).split(sizes), sizes, strict=True):
        memory = Memory(*(x[:size] for x in memory))
        hidden = captioner.step(words, hidden[:size], memory, captioner.of_state())
        states.append(hidden)
    logits = captioner.out(torch.cat(states))
    return F.cross_entropy(logits, targets.data, reduction="sum") / len(captions.lengths)


@pytest.mark.parametrize("lengths", [(7, 3, 12, 1), (2,), (5, 5, 5), (11, 11, 1)])
def test_loss_and_gradients_equal_those_of_the_steps(lengths):
    torch.manual_seed(0)
    captioner = Captioner(30, 8, 6, 5, 12, 0.0).double()
    rng = np.random.default_rng(0)
    tokens = [[1, *rng.integers(4, 30, n).tolist(), 2] for n in lengths]
    captions = make_captions(tokens, range(len(tokens)), [k % 3 for k in range(len(tokens))])
    regions = torch.randn(3, 5, 8, dtype=torch.double, requires_grad=True)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 3:] = False
    leaves = [regions, *captioner.parameters()]
    found = captioner(regions, mask, captions)
    expected = step_by_step(captioner, regions, mask, captions)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves)
    )


def test_dropout_of_the_context_is_drawn_once_per_word_and_scales_gradients():
    torch.manual_seed(0)
    captioner = Captioner(30, 8, 6, 5, 12, 0.5).double().train()
    captions = make_captions([[1, 4, 5, 2], [1, 9, 2]], range(2), [0, 0])
    regions = torch.randn(1, 5, 8, dtype=torch.double, requires_grad=True)
    mask = torch.ones(1, 5, dtype=torch.bool)

    def loss(x):
        torch.manual_seed(1)
        return captioner(x, mask, captions)

    torch.autograd.gradcheck(loss, regions)
