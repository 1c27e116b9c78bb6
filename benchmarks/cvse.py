"""Compare a training step of CVSE with the same step written as in the paper's equations.

The plain step repeats the concepts for every vector, computes scores and mixtures as (B, K, D)
products, and runs the graph once for images and once for captions.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.measure import PlainGRU, Row, pairs_of, race_steps, training_step
from itm.losses import Triplet, triplet
from itm.models import CVSE
from itm.models.cvse.consensus import normalised

SIZES = {  # batch, concepts, words, width
    "tiny": (4, 5, 50, 16),
    "small": (32, 300, 8481, 1024),
    "paper": (128, 300, 8481, 1024),
}


def rows(size: str) -> Iterator[Row]:
    batch, concepts, vocab, width = SIZES[size]
    pairs = pairs_of(batch, vocab, concepts)
    ours, other = (make(concepts, vocab, width) for _ in range(2))
    other.text.__class__ = PlainGRU
    steps = training_step(ours, pairs), training_step(other, pairs, lambda: plain(other, pairs))
    yield race_steps(
        f"training step, batch {batch}", steps[0], "plain", steps[1], 2, targets={"speed": 1.5}
    )


def make(concepts, vocab, width, img_dim=2048):
    """Build a matcher without dropout, because its noise would hide differences."""
    torch.manual_seed(0)
    options = {"img_dim": img_dim, "embed_dim": width, "num_concepts": concepts}
    matcher = CVSE(vocab, **options, dropout=0.0, loss=Triplet(0.2))
    together = (torch.rand(concepts, concepts) < 0.02).triu(1).float()
    matcher.graph.adjacency.copy_(torch.eye(concepts) + 0.1 * (together + together.T))
    return matcher.train()


def unit(x):
    return x / (x.pow(2).sum(-1, keepdim=True).sqrt() + 1e-12)


def pool(module, parts, mean):
    """Pool by self-attention with the query repeated for every part."""
    a = module.gate(module.part_norm(module.part(parts)))  # (B, P, D)
    q = module.gate(module.query_norm(module.query(mean)))
    q = q.unsqueeze(1).repeat(1, a.shape[1], 1)  # (B, P, D)
    weights = module.score(a * q).squeeze(2).softmax(1)
    return unit((weights.unsqueeze(2) * parts).sum(1))


def mix(module, vectors, concepts, labels=None, ratio=0.35):
    """Compute the concept distribution and the mixture through (B, K, D) tensors."""
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
    """Compute the total loss by the paper's equations."""
    regions = unit(matcher.image(pairs.images.regions))
    v0 = pool(matcher.image_attention, regions, regions.mean(1))
    words = unit(matcher.text(pairs.captions)[0])
    t0 = pool(matcher.text_attention, words, unit(words.mean(1)))
    p_v, v1 = mix(matcher.image_consensus, v0, graph(matcher.graph))
    p_t, t1 = mix(matcher.text_consensus, t0, graph(matcher.graph), pairs.captions.concepts)
    v2, t2 = unit(0.85 * v0 + 0.15 * v1), unit(0.85 * t0 + 0.15 * t1)
    ranking = 3 * triplet(v2 @ t2.T) + 5 * triplet(v0 @ t0.T) + triplet(v1 @ t1.T)
    return ranking + 2 * F.kl_div(p_v.log(), p_t, reduction="sum")
