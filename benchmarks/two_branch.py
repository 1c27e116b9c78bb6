"""Two-branch networks at the paper's widths: a training step, and 1000 images x 5000 captions.

The plain form is the loss as published: every constraint's negatives selected by a mask, both
distance matrices from squared norms, autograd through all of it. Both must give the same loss.
Processor seconds of one thread, so that other work on the machine does not count.

    python benchmarks/two_branch.py [--batch 500] [--images 1000] [--similarity]
"""

import argparse
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from itm.losses import Logistic, Neighborhood
from itm.models import TwoBranchEmbedding, TwoBranchSimilarity

IMAGE, SENTENCE = 4096, 6000  # VGG-19, HGLMM


def timed(function, runs):
    best = float("inf")
    for _ in range(runs):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    return result, best


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--similarity", action="store_true", help="add the similarity network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)

    def features(n, width):
        return rng.standard_normal((n, width), np.float32)

    table = Table("", "seconds", title="processor seconds, one thread")
    arguments = {"img_dim": IMAGE, "sentence_dim": SENTENCE, "text": {"name": "vectors"}}
    matcher = TwoBranchEmbedding(**arguments, dropout=0.0, loss=Neighborhood()).train()
    b = options.batch
    pairs = matcher.pairs(features(b, IMAGE), features(2 * b, SENTENCE), np.arange(b).repeat(2))

    def step(loss):
        matcher.zero_grad()
        value = loss()
        value.backward()
        return value.item()

    def plain():
        v, t = matcher.encode_images(pairs.images), matcher.encode_captions(pairs.captions)
        return plain_loss(v.vector, t.vector)

    ours, seconds = timed(lambda: step(lambda: matcher.losses(pairs)["total"]), options.runs)
    table.add_row(f"embedding, forward and backward, {b} x 2", f"{seconds:.2f}")
    theirs, seconds = timed(lambda: step(plain), options.runs)
    table.add_row("the same with the plain loss", f"{seconds:.2f}")
    assert abs(ours - theirs) < 1e-5, (ours, theirs)

    v = torch.nn.functional.normalize(torch.randn(b, 512)).requires_grad_()
    t = torch.nn.functional.normalize(torch.randn(2 * b, 512)).requires_grad_()
    loss, encoded = Neighborhood(), matcher.encode_images(pairs.images)
    both = (encoded._replace(vector=v), encoded._replace(vector=t))
    for name, function in (
        ("loss alone", lambda: loss(matcher.similarity(*both), pairs, both).backward()),
        ("plain loss alone", lambda: plain_loss(v, t).backward()),
    ):
        table.add_row(name, f"{timed(function, options.runs)[1]:.3f}")

    n = options.images
    images, captions = features(n, IMAGE), features(5 * n, SENTENCE)
    _, seconds = timed(lambda: matcher.score(images, captions, batch_size=1000), 1)
    table.add_row(f"embedding, scores of {n} x {5 * n}", f"{seconds:.2f}")
    if options.similarity:
        similar = TwoBranchSimilarity(**arguments, loss=Logistic()).train()
        small = similar.pairs(features(100, IMAGE), features(100, SENTENCE))

        def train():
            similar.zero_grad()
            similar.losses(small)["total"].backward()

        table.add_row("similarity, step of 100 x 100", f"{timed(train, options.runs)[1]:.2f}")
        _, seconds = timed(lambda: similar.score(images[:100], captions[:500]), 1)
        table.add_row("similarity, scores of 100 x 500", f"{seconds:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
