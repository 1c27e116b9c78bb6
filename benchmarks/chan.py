"""Compare CHAN's matching by maximum with plain loops over captions and with one matrix product.

loop      one caption at a time, its words repeated for each image: products, maximum, log-sum-exp
lean      one caption at a time on views of the inputs; it can be no faster than its small products
product   only the matrix product of regions and words of all pairs
"""

from collections.abc import Iterator

import torch

from benchmarks.measure import Row, Variant, pairs_of, race, race_steps, training_step
from benchmarks.scan import against_each, make_sides, product
from itm.batch import take
from itm.losses import Triplet, triplet
from itm.matcher.blocks import similarity_matrix
from itm.models import CHAN
from itm.models.chan import HardAlignment

SIZES = {  # images, captions of the similarity; batch; width D
    "tiny": (4, 20, 4, 16),
    "small": (40, 200, 32, 1024),
    "paper": (100, 500, 128, 1024),
}
MATCH = HardAlignment()


def rows(size: str) -> Iterator[Row]:
    images, captions, batch, width = SIZES[size]
    sides = make_sides(images, captions, width)
    runs = race(scorers(*sides), rounds=3)
    yield from against_each(
        f"similarity {images} x {captions}", runs, {"loop": {"speed": 5.0, "product": 1.4}}
    )
    sides = make_sides(batch, batch, width)
    runs = race(backwards(*sides), rounds=2)
    yield from against_each(
        f"similarity, loss, backward, batch {batch}", runs, {"loop": {"speed": 5.0}}
    )
    yield whole_step(batch, width)


def loop(images, captions):
    """Score one caption at a time: its words repeated for each image, padding marked by -1."""
    regions, columns = images.parts, []
    for words, n in zip(captions.parts, captions.aux["lengths"].tolist(), strict=True):
        repeated = words[:n].unsqueeze(0).repeat(len(regions), 1, 1)  # (I, L, D)
        cosines = torch.bmm(regions, repeated.transpose(1, 2))  # (I, R, L)
        cosines = cosines.masked_fill(~images.mask[:, :, None], -1.0)
        best = cosines.max(1).values  # (I, L)
        columns.append(torch.logsumexp(best / MATCH.beta, 1))
    return torch.stack(columns, 1)


def lean(images, captions):
    """Score one caption at a time, on views of the inputs."""
    columns = []
    for words, n in zip(captions.parts, captions.aux["lengths"].tolist(), strict=True):
        best = (images.parts @ words[:n].T).max(1).values  # (I, L)
        columns.append(torch.logsumexp(best / MATCH.beta, 1))
    return torch.stack(columns, 1)


def scorers(images, captions) -> dict[str, Variant]:
    """Score all pairs without gradients; evaluation keeps captions by length."""
    sides = []
    for rows in captions.aux["lengths"].argsort(stable=True).split(128):
        chunk = take(captions, rows)
        longest = int(chunk.aux["lengths"].max())
        tight = chunk._replace(parts=chunk.parts[:, :longest].clone(), mask=chunk.mask[:, :longest])
        sides.append((tight, rows))
    pictures = [(take(images, rows), rows) for rows in torch.arange(len(images.parts)).split(128)]

    def itm():
        floats = lambda r, w: 2 * r * w + 3 * (r + w)  # noqa: E731  # as CHAN.pair_floats
        return torch.from_numpy(similarity_matrix(MATCH.similarity, pictures, sides, floats))

    variants: dict[str, Variant] = {
        "itm": itm,
        "loop": lambda: loop(images, captions),
        "lean": lambda: lean(images, captions),
        "product": lambda: [product(images, captions).sum()],
    }
    return {name: lambda f=f: torch.no_grad()(f)() for name, f in variants.items()}


def backwards(images, captions) -> dict[str, Variant]:
    """Compute scores, hinge loss and its gradients with respect to images and captions."""
    leaves = [x.parts.requires_grad_() for x in (images, captions)]

    def run(function):
        loss = triplet(function(images, captions), margin=0.05)
        gradients = torch.autograd.grad(loss, leaves)
        return [loss.detach(), *(g.flatten()[::97] for g in gradients)]

    def bare():
        torch.autograd.grad(product(images, captions).sum(), leaves)
        return []

    return {
        "itm": lambda: run(MATCH.similarity),
        "loop": lambda: run(loop),
        "lean": lambda: run(lean),
        "product": bare,
    }


class Plain(CHAN):
    def similarity(self, images, captions):
        return lean(images, captions)


def whole_step(batch: int, width: int) -> Row:
    """Measure a whole training step with encoders."""
    vocab = 8482
    torch.manual_seed(0)
    ours = CHAN(vocab, embed_dim=width, loss=Triplet(0.05))
    other = Plain(vocab, embed_dim=width, loss=Triplet(0.05))
    other.load_state_dict(ours.state_dict())
    pairs = pairs_of(batch, vocab)
    steps = [training_step(matcher, pairs) for matcher in (ours, other)]
    return race_steps(f"training step, batch {batch}", steps[0], "lean", steps[1], 1)
