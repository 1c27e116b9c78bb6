"""SCAN's cross attention against the same scores written plainly, and against one matrix product.

Paper sizes (36 regions, D = 1024), lengths distributed as in the published caption files. Variants:

    itm       `itm.cross_attention` as evaluation and training call it
    lean      a loop over captions on views: products, softmax, attended vectors, cosine
    original  the original's steps in float32: words repeated for every image, transposed copies
    product   regions . words of all pairs, nothing else

All must give the same numbers. Times are processor seconds of one thread, so that other work on the
machine does not count; the best of several alternating runs. Memory is the growth of the peak
resident size, each variant in a process of its own.

    python benchmarks/cross_attention.py [--direction i2t] [--images 100] [--captions 500]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from itm.batch import Encoded
from itm.cross_attention import CrossAttention
from itm.losses import triplet
from itm.similarity import similarity_matrix, take

R, D = 36, 1024


def make_sides(I, C, seed=0):  # noqa: E741
    """Unit region and word vectors; lengths with mean 14, 99th percentile 26."""
    torch.manual_seed(seed)
    lengths = np.random.default_rng(seed).lognormal(np.log(13.4), 0.28, C).round().astype(int)
    lengths = torch.from_numpy(lengths.clip(5))
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    regions = F.normalize(torch.randn(I, R, D), dim=-1)
    words = F.normalize(torch.randn(*mask.shape, D), dim=-1) * mask[..., None]
    images = Encoded(parts=regions, mask=torch.ones(I, R, dtype=torch.bool))
    return images, Encoded(parts=words, mask=mask, aux={"lengths": lengths})


def finish(r, cross):
    """Relevances (I, Q) -> scores (I,)."""
    if cross.aggregation == "Mean":
        return r.mean(1)
    return torch.logsumexp(cross.lambda_lse * r, 1) / cross.lambda_lse


def lean(images, captions, cross):
    """One caption at a time on views of the inputs."""
    regions, columns = images.parts, []
    for words, n in zip(captions.parts, captions.aux["lengths"].tolist(), strict=True):
        words = words[:n]  # (L, D)
        s = regions @ words.T  # (I, R, L)
        if cross.direction == "i2t":
            s = s.mT
        a = F.leaky_relu(s, 0.1)
        a = a / (torch.linalg.vector_norm(a, dim=2, keepdim=True) + 1e-8)
        p = torch.softmax(cross.temperature * a, 1)
        if cross.direction == "t2i":
            query, attended = words, p.mT @ regions  # (I, L, D)
        else:
            query, attended = regions, p.mT @ words  # (I, R, D)
        columns.append(finish(F.cosine_similarity(query, attended, dim=-1, eps=1e-8), cross))
    return torch.stack(columns, 1)


def original(images, captions, cross):
    """The steps of the published code."""

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


def product(images, captions, cross):
    """The matrix product alone, of true words only."""
    return images.parts.flatten(0, 1) @ captions.parts[captions.mask].T


def itm_scores(images, captions, cross):
    return cross.similarity(images, captions)


def chunks(images, captions, cross):
    """Encodings as evaluation holds them: captions by length, padded to their chunk's longest.

    Gram matrices belong to the encoding of the images, made once, and are not timed here.
    """
    images = cross.prepare(images)
    parts = []
    for rows in captions.aux["lengths"].argsort(stable=True).split(128):
        chunk = take(captions, rows)
        longest = int(chunk.aux["lengths"].max())
        tight = chunk._replace(parts=chunk.parts[:, :longest].clone(), mask=chunk.mask[:, :longest])
        parts.append((tight, rows))
    return [
        (take(images, rows), rows) for rows in torch.arange(len(images.parts)).split(128)
    ], parts


def itm_matrix(images, captions, cross):
    """The score matrix as evaluation makes it, from chunks."""
    return torch.from_numpy(
        similarity_matrix(cross.similarity, images, captions, lambda r, w: 6 * r * w)
    )


VARIANTS = {"itm": itm_scores, "lean": lean, "original": original, "product": product}


def evaluate(name, images, captions, cross):
    """Scores of all pairs, no gradients."""
    if name == "itm":
        images, captions = chunks(images, captions, cross)
    with torch.no_grad():
        start = time.process_time()
        result = (itm_matrix if name == "itm" else VARIANTS[name])(images, captions, cross)
        return time.process_time() - start, (result,)


def step(name, images, captions, cross):
    """Scores, hinge and its gradients with respect to both sides."""
    leaves = [x.parts.requires_grad_() for x in (images, captions)]
    start = time.process_time()
    scores = VARIANTS[name](images, captions, cross)
    loss = scores.sum() if name == "product" else triplet(scores)
    gradients = torch.autograd.grad(loss, leaves)
    return time.process_time() - start, (loss.detach(), *gradients)


TASKS = {"evaluate": evaluate, "step": step}


def report(task, cross, sizes, runs):
    """Times, memory and agreement of all variants of a task."""
    images, captions = make_sides(*sizes)
    seconds = dict.fromkeys(VARIANTS, float("inf"))
    results = {}
    for _ in range(runs):
        for name in VARIANTS:
            spent, results[name] = TASKS[task](name, images, captions, cross)
            seconds[name] = min(seconds[name], spent)
    print(f"{task}: {sizes[0]} images x {sizes[1]} captions, {cross.direction}")
    peaks = {name: peak(task, name, cross, sizes) for name in VARIANTS}
    for name in VARIANTS:
        speed, memory = seconds[name] / seconds["itm"], peaks[name] / peaks["itm"]
        line = f"  {name:9}{seconds[name]:8.2f} s ({speed:5.2f} x itm)"
        line += f"{peaks[name] / 2**20:8.0f} MiB ({memory:5.2f} x itm)"
        if name in ("lean", "original"):
            pairs = zip(results["itm"], results[name], strict=True)
            worst = max(float((a - b).abs().max()) for a, b in pairs)
            line += f"   difference {worst:.1e}"
            assert worst < 1e-5 * max(1, float(results[name][0].abs().max()))
        print(line, flush=True)


def peak(task, name, cross, sizes):
    """Bytes by which a variant's peak resident size exceeds that of its inputs."""
    command = [sys.executable, __file__, "--peak", task, name]
    command += ["--direction", cross.direction, "--images", str(sizes[0]), "--captions"]
    return int(subprocess.check_output([*command, str(sizes[1])]))


def resident(field):
    """Bytes under a name of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--direction", default="t2i", choices=("t2i", "i2t"))
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--captions", type=int, default=500)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cross = CrossAttention(options.direction)  # t-i AVG; i-t LSE
    if options.direction == "i2t":
        cross = CrossAttention("i2t", temperature=4.0, aggregation="LogSumExp", lambda_lse=5.0)
    if options.peak:
        task, name = options.peak
        images, captions = make_sides(options.images, options.captions)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)
        before = resident("VmRSS")
        TASKS[task](name, images, captions, cross)
        print(resident("VmHWM") - before)
        return
    report("evaluate", cross, (options.images, options.captions), options.runs)
    report("step", cross, (options.batch, options.batch), options.runs)


if __name__ == "__main__":
    main()
