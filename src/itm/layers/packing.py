"""Pack the words of many captions without padding, in groups of (nearly) equal length."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from itm.batch import Encoded
from itm.layers.functional import send


class Steps(NamedTuple):
    """The order in which a recurrent network reads the W words of C captions.

    Attributes:
        rows: (W,) position c x L + t of each word in the padded batch, step after step; within a
            step the longest captions come first.
        sizes: (T,) int64 on the host, number of captions with a word at step t.
        order: (C,) the captions, longest first.
    """

    rows: Tensor
    sizes: Tensor
    order: Tensor


def by_step(lengths: Sequence[int], size: int, device: torch.device) -> Steps:
    """Order the words of captions padded to L = `size` as a `PackedSequence` does.

    Unlike `pack_padded_sequence`, it computes everything on the host and never waits for the
    device; words are then packed by one `index_select`, whose backward is one `index_add`.
    """
    ends = torch.tensor(lengths)
    order = ends.argsort(descending=True, stable=True)
    steps = torch.arange(int(ends.max()))[:, None]
    real = steps < ends[order]  # (T, C)
    rows = (order * size + steps)[real]
    return Steps(send(rows, device), real.sum(1), send(order, device))


class Packed(NamedTuple):
    """The words of C captions, group after group, longest captions first.

    Attributes:
        words: (W, D) word vectors; a group of n captions padded to L' words has n x L' rows.
        shapes: (n, L') of each group, Python ints.
        masks: (n, L') bool of each group, None = all words are real.
        inverse: (C,) position of each caption in group order.
    """

    words: Tensor
    shapes: list[tuple[int, int]]
    masks: list[Tensor | None]
    inverse: Tensor

    @property
    def sizes(self) -> list[int]:
        """Count the rows of each group."""
        return [count * size for count, size in self.shapes]


@torch.compiler.disable
def pack(captions: Encoded, slack: float = 0.0) -> Packed:
    """Pack word vectors (C, L, D) with no more padding than `slack` allows.

    All indices are computed on the host from the lengths and sent to the device without waiting.

    Args:
        captions: with `parts`, and `mask` or `aux["lengths"]`.
        slack: a group's longest caption has at most (1 + slack) x as many words as its shortest;
            `math.inf` makes one group.
    """
    words = captions.parts
    assert words is not None
    lengths = host_lengths(captions)
    groups = group_by_length(lengths, slack)
    shapes = [(len(rows), lengths[rows[0]]) for rows in groups]
    index = [
        (torch.tensor(rows)[:, None] * words.shape[1] + torch.arange(size)).flatten()
        for rows, (_, size) in zip(groups, shapes, strict=True)
    ]
    masks = []
    for rows, (_, size) in zip(groups, shapes, strict=True):
        ends = torch.tensor([lengths[row] for row in rows])
        mask = torch.arange(size) < ends[:, None]  # (n, L')
        masks.append(None if mask.all() else send(mask, words.device))
    inverse = torch.tensor([row for rows in groups for row in rows]).argsort()
    packed = words.flatten(0, 1).index_select(0, send(torch.cat(index), words.device))
    return Packed(packed, shapes, masks, send(inverse, words.device))


def host_lengths(captions: Encoded) -> list[int]:
    """Return the number of words of each caption, from `aux["lengths"]` if the encoder set it.

    That tensor stays on the host in training, whereas reading the mask would wait for the device.
    """
    if captions.aux is not None and "lengths" in captions.aux:
        return captions.aux["lengths"].tolist()
    assert captions.mask is not None
    return captions.mask.sum(1).tolist()


def group_by_length(lengths: Sequence[int], slack: float = 0.0) -> list[list[int]]:
    """Group rows by length, longest first.

    A group's longest row has at most (1 + slack) x the words of its shortest. Rows of equal length
    keep their order, because SAF's running statistics depend on it.
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if groups and lengths[groups[-1][0]] <= (1 + slack) * lengths[row]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
