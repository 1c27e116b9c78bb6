"""Measure VSE++ and VSE-infinity at the papers' sizes, and what GPO adds to a training step.

The plain GPO does as the published code: it fills padding with a large negative number, runs its
GRU over the position codes of every set of the batch, and sorts with torch.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.measure import (
    PlainGRU,
    Row,
    Variant,
    compare,
    lengths_of,
    pairs_of,
    race,
    race_steps,
    training_step,
)
from itm.layers import GPO
from itm.layers.gpo import TEMPERATURE, position_codes
from itm.losses import Triplet
from itm.models import VSEPP, VSEInfinity

SIZES = {  # batch, regions, width F of the regions, width D
    "tiny": (6, 4, 16, 16),
    "small": (32, 36, 2048, 1024),
    "paper": (128, 36, 2048, 1024),
}
VOCAB = 8482
SHARE = 0.1  # of a training step that GPO may take


def rows(size: str) -> Iterator[Row]:
    batch, regions, features, width = SIZES[size]
    sizes = {"vocab_size": VOCAB, "img_dim": features, "embed_dim": width}
    pairs = pairs_of(batch, VOCAB)
    pairs = pairs._replace(
        images=pairs.images._replace(
            regions=pairs.images.regions[:, :regions, :features].contiguous(),
            mask=pairs.images.mask[:, :regions],
        )
    )
    steps = [training_step(m, pairs) for m in twins(VSEInfinity, sizes, plain_infinity)]
    step = race_steps(f"VSE-infinity training step, batch {batch}", steps[0], "plain", steps[1], 2)
    yield step
    runs = race(pooling(batch, regions, width), rounds=3)
    task = f"its GPO for regions and words, forward and backward, batch {batch}"
    limit = {"seconds": SHARE * step.seconds} if size != "tiny" else {}
    note = f"{100 * runs['itm'].seconds / step.seconds:.1f} % of the step"
    yield compare(task, runs, 1e-3, note=note, targets=limit)
    steps = [training_step(m, pairs) for m in twins(VSEPP, sizes, plain_text)]
    yield race_steps(f"VSE++ training step, batch {batch}", steps[0], "plain", steps[1], 2)


class PlainGPO(GPO):
    def forward(self, x, mask):
        counts = mask.sum(1)
        codes = position_codes(x.shape[1], self.width).expand(len(x), -1, -1)
        packed = pack_padded_sequence(codes, counts, batch_first=True, enforce_sorted=False)
        states = pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]
        forward, backward = states.chunk(2, -1)
        scores = self.score((forward + backward) / 2).squeeze(-1)
        scores = scores.masked_fill(~mask[:, : scores.shape[1]], -10000) / TEMPERATURE
        weights = torch.softmax(scores, 1)
        ranked = x.masked_fill(~mask[..., None], -10000).sort(1, descending=True)[0]
        ranked = ranked.masked_fill(~mask[..., None], 0)
        return (ranked[:, : weights.shape[1]] * weights[..., None]).sum(1)


def twins(kind, sizes, change) -> list[nn.Module]:
    """Make two matchers of the same weights, one of them changed to plain code."""
    torch.manual_seed(0)
    ours, other = (kind(**sizes, loss=Triplet()).train() for _ in range(2))
    change(other)
    other.load_state_dict(ours.state_dict())
    return [ours, other]


def plain_text(matcher) -> None:
    text = matcher.text
    text.__class__ = PlainGRU


def plain_infinity(matcher) -> None:
    plain_text(matcher)
    matcher.image_pool, matcher.text_pool = PlainGPO(), PlainGPO()


def pooling(batch: int, regions: int, width: int) -> dict[str, Variant]:
    """Pool regions and words, with gradients of parts and parameters."""
    torch.manual_seed(0)
    lengths = torch.tensor(sorted(lengths_of(batch), reverse=True))
    masks = [torch.ones(batch, regions, dtype=torch.bool)]
    masks.append(torch.arange(int(lengths[0])) < lengths[:, None])
    parts = [torch.randn(batch, m.shape[1], width) * m[..., None] for m in masks]
    leaves = [x.requires_grad_() for x in parts]
    gradient = torch.randn(batch, width)
    ours, other = GPO(), PlainGPO()
    other.load_state_dict(ours.state_dict())

    def run(pool):
        found = []
        for x, mask in zip(leaves, masks, strict=True):
            pooled = pool(x, mask)
            given = torch.autograd.grad(pooled, [x, *pool.parameters()], gradient)
            found += [pooled.detach(), given[0].flatten()[::97], *given[1:]]
        return found

    return {"itm": lambda: run(ours), "plain": lambda: run(other)}
