"""Measure the two-branch networks at the paper's widths: a training step, and scores.

The plain form is the published loss: a mask selects the negatives of every constraint, both
distance matrices come from squared norms, and autograd differentiates all of it. The plain form of
the similarity network computes the (I, C, D) products of all pairs.
"""

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.measure import Row, alone, compare, products_of, race, race_steps, training_step
from itm.losses import Logistic, Neighborhood
from itm.models import TwoBranchEmbedding, TwoBranchSimilarity

SIZES = {  # batch of images, images of the scores, input widths, hidden, embedding
    "tiny": (12, 8, 12, 10, 16, 16),
    "small": (100, 300, 4096, 6000, 2048, 512),
    "paper": (128, 1000, 4096, 6000, 2048, 512),  # VGG-19, HGLMM
}


def rows(size: str) -> Iterator[Row]:
    batch, images, wide, long, hidden, dim = SIZES[size]
    rng = np.random.default_rng(0)
    arguments = {"img_dim": wide, "sentence_dim": long, "hidden_dim": hidden, "embed_dim": dim}
    arguments |= {"text": {"name": "vectors"}, "dropout": 0.0}

    def features(n, width):
        return rng.standard_normal((n, width), np.float32)

    matchers = []
    for _ in range(2):
        torch.manual_seed(0)
        matchers.append(TwoBranchEmbedding(**arguments, loss=Neighborhood()).train())
    ours, other = matchers
    pairs = ours.pairs(features(batch, wide), features(2 * batch, long), np.arange(batch).repeat(2))

    def plain():
        v, t = other.encode_images(pairs.images), other.encode_captions(pairs.captions)
        return plain_loss(v.vector, t.vector)

    steps = training_step(ours, pairs), training_step(other, pairs, plain)
    task = f"embedding, training step, batch {batch} x 2"
    yield race_steps(task, steps[0], "plain loss", steps[1], 2)

    v = torch.nn.functional.normalize(torch.randn(batch, dim)).requires_grad_()
    t = torch.nn.functional.normalize(torch.randn(2 * batch, dim)).requires_grad_()
    loss, encoded = Neighborhood(), ours.encode_images(pairs.images)
    both = (encoded._replace(vector=v), encoded._replace(vector=t))

    def gradients(function):
        value = function()
        return [value.detach(), *torch.autograd.grad(value, (v, t))]

    alternatives = {
        "itm": lambda: gradients(lambda: loss(ours.similarity(*both), pairs, both)),
        "plain loss": lambda: gradients(lambda: plain_loss(v, t)),
    }
    yield compare(f"its loss alone, batch {batch} x 2", race(alternatives), 1e-5)

    scored, sentences = features(images, wide), features(5 * images, long)
    run = alone(lambda: [ours.score(scored, sentences, batch_size=1000).sum()])
    yield Row(f"embedding, encode and score {images} x {5 * images}", run.seconds, bytes=run.bytes)

    similar = TwoBranchSimilarity(**{**arguments, "embed_dim": dim}, loss=Logistic()).train()
    few = min(100, images)
    small = similar.pairs(scored[:few], sentences[:few])
    step = training_step(similar, small)
    run = alone(step)
    task = f"similarity network, step of {few} x {few}"
    yield Row(task, run.seconds, products_of(step), bytes=run.bytes)
    run = alone(lambda: [similar.score(scored[:few], sentences[: 5 * few]).sum()])
    task = f"similarity network, encode and score {few} x {5 * few}"
    yield Row(task, run.seconds, bytes=run.bytes)


def apart(a, b):
    squares = a.square().sum(1)[:, None] - 2 * a @ b.T + b.square().sum(1)
    return (squares.clamp_min(0) + 1e-4).sqrt()


def plain_loss(v, t, k=10, margin=0.05):
    b, s = len(v), len(t) // len(v)
    own = torch.eye(b, dtype=torch.bool).repeat_interleave(s, 0)  # (C, I)
    d = apart(t, v)
    pos = d[own].view(-1, 1)

    def hinge(positive, negatives):
        return (margin + positive - negatives).clamp(0, 1e6).topk(k)[0].mean()

    images = hinge(pos, d[~own].view(b * s, -1))
    captions = hinge(pos, d.T[~own.T].view(b, -1).repeat_interleave(s, 0))
    same = own.float() @ own.float().T > 0
    tt = apart(t, t)
    far = tt[same].view(b * s, -1).amax(1, keepdim=True)
    return 1.5 * images + captions + 0.05 * hinge(far, tt[~same].view(b * s, -1))
