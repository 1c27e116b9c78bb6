"""Cross attention of one image-caption pair, word for word as published, with attended vectors."""

import torch


def normalise(s, name):
    """The products s (context, query) under a raw norm, along the queries."""
    if name.startswith("clipped"):
        s = torch.where(s > 0, s, 0.1 * s)
    if name.endswith("l2norm"):
        return s / (torch.sqrt((s * s).sum(1, keepdim=True)) + 1e-8)
    if name.endswith("l1norm"):
        return s / (s.abs().sum(1, keepdim=True) + 1e-8)
    if name == "softmax":
        return torch.softmax(s, dim=1)
    return s


def attend(query, context, raw_norm, temperature):
    """Attention (context, query) and attended vectors (query, D)."""
    s = context @ query.T
    a = torch.softmax(temperature * normalise(s, raw_norm), dim=0)
    return a, a.T @ context


def pair_score(regions, words, direction, raw_norm, temperature, aggregation, lambda_lse):
    """Score of one image (R, D) with one caption (L, D)."""
    query, context = (words, regions) if direction == "t2i" else (regions, words)
    attended = attend(query, context, raw_norm, temperature)[1]
    r = torch.stack(
        [
            (q * c).sum() / (q.norm() * c.norm()).clamp(min=1e-8)
            for q, c in zip(query, attended, strict=True)
        ]
    )
    if aggregation == "LogSumExp":
        return torch.log(torch.exp(lambda_lse * r).sum()) / lambda_lse
    return {"Mean": r.mean, "Max": r.max, "Sum": r.sum}[aggregation]()


def scores(regions, words, *options):
    """Scores (I, C) of lists of (R_i, D) and (L_c, D), one pair after the other."""
    return torch.stack([torch.stack([pair_score(v, w, *options) for w in words]) for v in regions])
