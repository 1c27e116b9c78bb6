"""Compare SCAN's cross attention with plainly written code and with one matrix product.

lean      a loop over captions, on views: products, softmax, attended vectors, cosine
original  the steps of the original code in float32: words repeated per image, transposed copies
product   only the matrix product of regions and words of all pairs
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.measure import (
    Row,
    Variant,
    compare,
    lengths_of,
    pairs_of,
    race,
    race_steps,
    training_step,
)
from itm.batch import Encoded, take
from itm.layers.cross_attention import CrossAttention
from itm.losses import Triplet, triplet
from itm.matcher.blocks import similarity_matrix
from itm.models import SCAN

SIZES = {  # images, captions of the similarity; batch; width D
    "tiny": (4, 20, 4, 16),
    "small": (40, 200, 32, 1024),
    "paper": (100, 500, 128, 1024),
}
I2T = CrossAttention("i2t", temperature=4.0, aggregation="LogSumExp", lambda_lse=5.0)


def rows(size: str) -> Iterator[Row]:
    images, captions, batch, width = SIZES[size]
    goals = {"lean": {"speed": 4.5, "product": 1.45}, "original": {"speed": 7.0}}
    for cross in (CrossAttention("t2i"), I2T):
        sides = make_sides(images, captions, width)
        task = f"{cross.direction} similarity {images} x {captions}"
        runs = race(scorers(cross, *sides), rounds=2)
        yield from against_each(task, runs, goals if cross.direction == "t2i" else {})
    steps = {"lean": {"speed": 6.0, "memory": 1 / 3}, "original": {"memory": 1 / 3}}
    for cross in (CrossAttention("t2i"), I2T):
        sides = make_sides(batch, batch, width)
        task = f"{cross.direction} similarity, loss, backward, batch {batch}"
        runs = race(backwards(cross, *sides), rounds=1)
        yield from against_each(task, runs, steps if cross.direction == "t2i" else {})
    yield whole_step(batch, width)


def against_each(task: str, runs: dict, goals: dict) -> Iterator[Row]:
    for name in [name for name in runs if name not in ("itm", "product")]:
        three = {key: runs[key] for key in ("itm", name, "product")}
        yield compare(task, three, 1e-5, targets=goals.get(name, {}))


def make_sides(images: int, captions: int, width: int) -> tuple[Encoded, Encoded]:
    """Make unit region and word vectors."""
    torch.manual_seed(0)
    lengths = torch.tensor(lengths_of(captions))
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    regions = F.normalize(torch.randn(images, 36, width), dim=-1)
    words = F.normalize(torch.randn(*mask.shape, width), dim=-1) * mask[..., None]
    real = torch.ones(images, 36, dtype=torch.bool)
    return Encoded(parts=regions, mask=real), Encoded(
        parts=words, mask=mask, aux={"lengths": lengths}
    )


def finish(r, cross):
    """Reduce relevances (I, Q) to scores (I,)."""
    if cross.aggregation == "Mean":
        return r.mean(1)
    return torch.logsumexp(cross.lambda_lse * r, 1) / cross.lambda_lse


def attended(regions, words, cross):
    """Return queries and the vectors that they attend to, for all images and one caption."""
    s = regions @ words.T  # (I, R, L)
    if cross.direction == "i2t":
        s = s.mT
    a = F.leaky_relu(s, 0.1)
    a = a / (torch.linalg.vector_norm(a, dim=2, keepdim=True) + 1e-8)
    p = torch.softmax(cross.temperature * a, 1)
    if cross.direction == "t2i":
        return words, p.mT @ regions  # (L, D), (I, L, D)
    return regions, p.mT @ words  # (I, R, D) both


def lean(images, captions, cross):
    """Score one caption at a time on views of the inputs."""
    columns = []
    for words, n in zip(captions.parts, captions.aux["lengths"].tolist(), strict=True):
        query, found = attended(images.parts, words[:n], cross)
        columns.append(finish(F.cosine_similarity(query, found, dim=-1, eps=1e-8), cross))
    return torch.stack(columns, 1)


def original(images, captions, cross):
    """Score by the steps of the published code."""

    def unit(x, dim):
        return x / (torch.pow(x, 2).sum(dim=dim, keepdim=True).sqrt() + 1e-8)

    regions, columns = images.parts, []
    for k, n in enumerate(captions.aux["lengths"].tolist()):
        words = captions.parts[k, :n].unsqueeze(0).contiguous().repeat(len(regions), 1, 1)
        query, context = (words, regions) if cross.direction == "t2i" else (regions, words)
        B, Q, P = len(query), query.shape[1], context.shape[1]
        a = torch.bmm(context, query.transpose(1, 2))  # (B, P, Q)
        a = unit(F.leaky_relu(a, 0.1), 2).transpose(1, 2).contiguous().view(B * Q, P)
        a = torch.softmax(a * cross.temperature, 1).view(B, Q, P).transpose(1, 2).contiguous()
        attended = torch.bmm(context.transpose(1, 2), a).transpose(1, 2)  # (B, Q, D)
        dot = (query * attended).sum(2)
        r = dot / (query.norm(2, 2) * attended.norm(2, 2)).clamp(min=1e-8)
        columns.append(finish(r, cross).unsqueeze(1))
    return torch.cat(columns, 1)


def plain(cross):
    """Choose the code to compare with: i2t only with lean, because both take long."""
    return {"lean": lean, **({"original": original} if cross.direction == "t2i" else {})}


def product(images, captions):
    """Compute only the matrix product, of real words."""
    return images.parts.flatten(0, 1) @ captions.parts[captions.mask].T


def chunks(images, captions, cross):
    """Make encodings as evaluation keeps them: captions by length, padded within a chunk.

    Gram matrices are part of the image encoding, which is made once, and are not timed here.
    """
    images = cross.prepare(images)
    parts = []
    for rows in captions.aux["lengths"].argsort(stable=True).split(128):
        chunk = take(captions, rows)
        longest = int(chunk.aux["lengths"].max())
        tight = chunk._replace(parts=chunk.parts[:, :longest].clone(), mask=chunk.mask[:, :longest])
        parts.append((tight, rows))
    pictures = torch.arange(len(images.parts)).split(128)
    return [(take(images, rows), rows) for rows in pictures], parts


def scorers(cross, images, captions) -> dict[str, Variant]:
    """Score all pairs without gradients."""
    blocks = chunks(images, captions, cross)

    def itm():
        matrix = similarity_matrix(cross.similarity, *blocks, lambda r, w: 6 * r * w)
        return torch.from_numpy(matrix)

    variants: dict[str, Variant] = {"itm": itm}
    variants |= {name: lambda f=f: f(images, captions, cross) for name, f in plain(cross).items()}
    variants["product"] = lambda: [product(images, captions).sum()]
    return {name: lambda f=f: torch.no_grad()(f)() for name, f in variants.items()}


def backwards(cross, images, captions) -> dict[str, Variant]:
    """Compute scores, hinge loss and its gradients with respect to images and captions."""
    leaves = [x.parts.requires_grad_() for x in (images, captions)]

    def run(function):
        scores = function()
        loss = scores.sum() if scores.shape[0] != scores.shape[1] else triplet(scores)
        gradients = torch.autograd.grad(loss, leaves)
        return [loss.detach(), *(g.flatten()[::97] for g in gradients)]

    def bare():
        torch.autograd.grad(product(images, captions).sum(), leaves)
        return []

    variants: dict[str, Variant] = {"itm": lambda: run(lambda: cross.similarity(images, captions))}
    for name, f in plain(cross).items():
        variants[name] = lambda f=f: run(lambda: f(images, captions, cross))
    return {**variants, "product": bare}


class Lean(SCAN):
    def similarity(self, images, captions):
        return lean(images, captions, self.cross)


def whole_step(batch: int, width: int) -> Row:
    """Measure a whole training step with encoders, t2i."""
    vocab = 8481
    torch.manual_seed(0)
    ours = SCAN(vocab, embed_dim=width, loss=Triplet())
    other = Lean(vocab, embed_dim=width, loss=Triplet())
    other.load_state_dict(ours.state_dict())
    pairs = pairs_of(batch, vocab)
    steps = [training_step(matcher, pairs) for matcher in (ours, other)]
    return race_steps(f"t2i training step, batch {batch}", steps[0], "lean", steps[1], 1)
