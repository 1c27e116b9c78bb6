"""A training step of CVSE against the same step written plainly, as the paper's equations read.

Paper sizes: batches of 128, 36 regions of width 2048, D = 1024, 300 concepts, 8481 words; caption
lengths as in the published files. The plain step repeats the concepts for every vector, so that
scores and mixtures are (B, K, D) products, and runs the graph for each side. A step is losses,
gradients, clipping and Adam. Both must give the same losses and gradients.

Times are processor seconds of one thread, so that other work on the machine does not count; the
best of several alternating runs. Memory is the growth of the peak resident size, each variant in a
process of its own.

    python benchmarks/cvse.py [--batch 128] [--runs 3]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from itm.batch import Captions, Images, Pairs
from itm.consensus import normalised
from itm.losses import Triplet, triplet
from itm.models import CVSE

R, D, K, V = 36, 1024, 300, 8481


def make(batch, seed=0):
    """A matcher without dropout, whose noise would hide differences, and a batch, longest first."""
    torch.manual_seed(seed)
    matcher = CVSE(V, dropout=0.0, loss=Triplet(0.2)).train()
    together = (torch.rand(K, K) < 0.02).triu(1).float()
    edges = 0.1 * (together + together.T)
    matcher.graph.adjacency.copy_(torch.eye(K) + edges)
    lengths = np.random.default_rng(seed).lognormal(np.log(13.4), 0.28, batch).round().clip(5)
    lengths = sorted(lengths.astype(int).tolist(), reverse=True)
    tokens = torch.randint(4, V, (batch, lengths[0]))
    tokens[torch.arange(lengths[0]) >= torch.tensor(lengths)[:, None]] = 0
    rows = torch.arange(batch)
    images = Images(
        torch.rand(batch, R, 2048), torch.ones(batch, R, dtype=torch.bool), torch.arange(batch)
    )
    labels = (torch.rand(batch, K) < 0.04).float()
    return matcher, Pairs(images, Captions(tokens, tuple(lengths), rows, rows, concepts=labels))


def unit(x):
    return x / (x.pow(2).sum(-1, keepdim=True).sqrt() + 1e-12)


def pool(module, parts, mean):
    """Self-attention with the query repeated for every part."""
    a = module.gate(module.part_norm(module.part(parts)))  # (B, P, D)
    q = module.gate(module.query_norm(module.query(mean)))
    q = q.unsqueeze(1).repeat(1, a.shape[1], 1)  # (B, P, D)
    weights = module.score(a * q).squeeze(2).softmax(1)
    return unit((weights.unsqueeze(2) * parts).sum(1))


def mix(module, vectors, concepts, labels=None, ratio=0.35):
    """Concept distribution and mixture through (B, K, D) tensors."""
    s = module.gate(module.concept_norm(module.concept(concepts)))  # (K, D)
    q = module.gate(module.query_norm(module.query(vectors)))  # (B, D)
    q = q.unsqueeze(1).repeat(1, len(s), 1)  # (B, K, D)
    p = (10 * module.score(s * q).squeeze(2)).softmax(1)
    if labels is not None:
        p = ratio * (10 * labels).softmax(1) + (1 - ratio) * p
    return p, unit((p.unsqueeze(2) * unit(concepts)).sum(1))


def graph(module):
    a = normalised(module.adjacency)
    hidden = F.leaky_relu(a @ (module.vectors @ module.first), 0.2)
    return unit(a @ (hidden @ module.second))


def plain(matcher, pairs):
    """The total loss by the paper's equations."""
    regions = unit(matcher.image(pairs.images.regions))
    v0 = pool(matcher.image_attention, regions, regions.mean(1))
    words = unit(matcher.text(pairs.captions)[0])
    t0 = pool(matcher.text_attention, words, unit(words.mean(1)))
    p_v, v1 = mix(matcher.image_consensus, v0, graph(matcher.graph))
    p_t, t1 = mix(matcher.text_consensus, t0, graph(matcher.graph), pairs.captions.concepts)
    v2, t2 = unit(0.85 * v0 + 0.15 * v1), unit(0.85 * t0 + 0.15 * t1)
    ranking = 3 * triplet(v2 @ t2.T) + 5 * triplet(v0 @ t0.T) + triplet(v1 @ t1.T)
    return ranking + 2 * F.kl_div(p_v.log(), p_t, reduction="sum")


VARIANTS = {"itm": lambda matcher, pairs: matcher.losses(pairs)["total"], "plain": plain}


def step(name, matcher, pairs, optimizer):
    """One step; the loss and all gradients before clipping."""
    optimizer.zero_grad()
    loss = VARIANTS[name](matcher, pairs)
    loss.backward()
    gradients = {k: p.grad.clone() for k, p in matcher.named_parameters()}
    torch.nn.utils.clip_grad_norm_(matcher.parameters(), 2.0)
    optimizer.step()
    return loss.item(), gradients


def resident(field):
    """Bytes under a name of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = make(options.batch)[1]
    matchers = {name: make(options.batch)[0] for name in VARIANTS}
    optimizers = {k: torch.optim.Adam(m.parameters(), lr=2e-4) for k, m in matchers.items()}
    if options.peak:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)
        before, name = resident("VmRSS"), options.peak
        step(name, matchers[name], pairs, optimizers[name])
        print(resident("VmHWM") - before)
        return
    seconds, first = dict.fromkeys(VARIANTS, float("inf")), {}
    for _ in range(options.runs):
        for name in VARIANTS:
            start = time.process_time()
            result = step(name, matchers[name], pairs, optimizers[name])
            seconds[name] = min(seconds[name], time.process_time() - start)
            first.setdefault(name, result)
    (loss, gradients), (other, others) = first["itm"], first["plain"]
    # Sums over (B, K, D) and matrix products round differently, so compare with each one's size.
    scale = max(float(g.abs().max()) for g in others.values())
    worst = max(float((gradients[k] - others[k]).abs().max()) for k in gradients) / scale
    print(f"loss {loss:.5f} and {other:.5f}, gradients differ by {worst:.1e} of the largest")
    assert abs(loss - other) < 1e-5 * abs(other) and worst < 1e-4
    for name in VARIANTS:
        command = [sys.executable, __file__, "--batch", str(options.batch), "--peak", name]
        peak = int(subprocess.check_output(command)) / 2**20
        speed = seconds[name] / seconds["itm"]
        print(f"{name:6}{seconds[name]:7.2f} s a step ({speed:.2f} x itm) {peak:7.0f} MiB")


if __name__ == "__main__":
    main()
