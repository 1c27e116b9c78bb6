"""Check that blocks of scores respect the memory budget and do not change scores."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from itm.batch import Encoded
from itm.matcher.blocks import Sink, similarity_matrix

COST = 10  # float32 values of a pair, by word


def sides(images=(5, 3), captions=(4, 6, 1), width=8):
    """Make chunks of encodings with their shuffled rows in the split."""
    torch.manual_seed(0)

    def chunks(sizes, parts):
        rows = torch.randperm(sum(sizes)).split(list(sizes))
        return [(Encoded(torch.randn(len(r), width), torch.zeros(len(r), p, 1)), r)
                for r, p in zip(rows, parts, strict=True)]  # fmt: skip

    return chunks(images, [2] * len(images)), chunks(captions, range(1, len(captions) + 1))


def truth(images, captions):
    """Score pair by pair."""
    n, m = (sum(len(rows) for _, rows in side) for side in (images, captions))
    out = np.empty((n, m), np.float32)
    for (a, rows), (b, columns) in itertools.product(images, captions):
        for (i, x), (c, y) in itertools.product(
            zip(rows, a.vector, strict=True), zip(columns, b.vector, strict=True)
        ):
            out[i, c] = float(x @ y)
    return out


class Device:
    """Make a similarity that records its inputs and runs out of memory above a number of pairs."""

    def __init__(self, room=10**9):
        self.room = room
        self.blocks, self.failed = [], 0

    def __call__(self, images, captions):
        i, c, words = len(images.vector), len(captions.vector), captions.parts.shape[1]
        if i * c > self.room:
            self.failed += 1
            raise torch.OutOfMemoryError("the device is full")
        self.blocks.append((i * c, 4 * COST * words * i * c))
        return images.vector @ captions.vector.T


def matrix(device, budget=1 << 30, **sizes):
    images, captions = sides(**sizes)
    return similarity_matrix(
        device, images, captions, lambda regions, words: COST * words, memory_budget=budget
    )


@pytest.mark.parametrize("budget", [1, 100, 200, 1000, 1600, 10**9])
def test_blocks_respect_the_budget(budget):
    device = Device()
    np.testing.assert_allclose(matrix(device, budget), truth(*sides()), atol=1e-6)
    for pairs, size in device.blocks:
        assert size <= budget or pairs == 1  # one pair at a time is the least
    assert sum(pairs for pairs, _ in device.blocks) == 8 * 11  # each pair once


def test_blocks_are_not_smaller_than_needed():
    """Blocks use more than half of the budget, except for the last words of a chunk."""
    device = Device()
    matrix(device, budget=4 * COST * 16, images=(4,), captions=(16,))
    assert [pairs for pairs, _ in device.blocks] == [16] * 4
    device = Device()
    matrix(device, images=(4,), captions=(16,))
    assert [pairs for pairs, _ in device.blocks] == [64]


@pytest.mark.parametrize("room", [1, 2, 3, 7, 12])
def test_a_device_without_memory_gets_smaller_blocks(room):
    device = Device(room)
    np.testing.assert_allclose(matrix(device), truth(*sides()), atol=1e-6)
    assert max(pairs for pairs, _ in device.blocks) <= room


def test_what_did_not_fit_is_not_tried_again():
    device = Device(room=5)
    matrix(device, images=(4,) * 20, captions=(16,))
    assert device.failed == 4  # 64, 32, 16 and 8 pairs of the first chunk; 4 fit
    assert len(device.blocks) == 20 * 16


def test_not_even_one_pair_fits():
    with pytest.raises(torch.OutOfMemoryError, match="the device is full"):
        matrix(Device(room=0))


def test_another_error_ends_at_once():
    def broken(images, captions):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        matrix(broken)


def test_empty_chunks():
    device = Device()
    np.testing.assert_allclose(
        matrix(device, images=(3, 0), captions=(0, 2)), truth(*sides((3, 0), (0, 2))), atol=1e-6
    )


def test_a_block_is_awaited_on_the_stream_of_its_own_gpu(monkeypatch):
    """The current GPU may be another one than that of the scores."""
    recorded = []

    class Event:
        def record(self, stream=None):
            recorded.append(stream)

        def synchronize(self):
            pass

    class Pinned:
        def copy_(self, scores, non_blocking):
            assert non_blocking

        def numpy(self):
            return np.ones((2, 3), np.float32)

    second = torch.device("cuda:1")
    scores = SimpleNamespace(device=second, dtype=torch.float32, shape=(2, 3))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: ("stream of", device))
    out = np.zeros((2, 3), np.float32)
    sink = Sink(out)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty", lambda *size, **options: Pinned())
        sink.write(scores, torch.arange(2), torch.arange(3))
    sink.finish()
    assert recorded == [("stream of", second)] and out.all()
