"""SGRAF's training step and similarity against the same written plainly, caption by caption.

Paper width (36 regions, 2048 -> 1024, similarity vectors of 256), caption lengths as in COCO. The
plain form is what the published description says: for each caption all images at once, attended
region vectors, squared differences, and three full graph steps or the filtration. Both must give
the same numbers. Times are processor seconds of one thread, so that other work on the machine does
not count; the best of several alternating runs.

    python benchmarks/sgraf.py [--module SGR SAF] [--batch 128] [--images 100] [--captions 500]
"""

import argparse
import resource
import time

import torch
import torch.nn.functional as F

from itm.batch import Captions, Encoded, Images, Pairs
from itm.losses import Triplet
from itm.models.sgraf import SGRAF

VOCAB = 11353


def unit(x, dim=-1):
    return x / (x.pow(2).sum(dim, keepdim=True).sqrt() + 1e-8)


class Plain(SGRAF):
    def similarity(self, images: Encoded, captions: Encoded):
        columns = []
        for caption, n, vector in zip(
            captions.parts, captions.mask.sum(1).tolist(), captions.vector, strict=True
        ):
            words = caption[:n].expand(len(images.parts), n, -1)  # (I, L, D)
            scores = F.leaky_relu(images.parts @ words.transpose(1, 2), 0.1)  # (I, R, L)
            weights = F.softmax(9.0 * unit(scores).transpose(1, 2), dim=2)  # (I, L, R)
            context = unit(weights @ images.parts)  # (I, L, D)
            local = unit(self.local_node((context - words).pow(2)))  # (I, L, K)
            overall = unit(self.global_node((images.vector - vector).pow(2)))  # (I, K)
            nodes = torch.cat([overall[:, None], local], 1)  # (I, 1 + L, K)
            vectors = self.filter(nodes) if self.hparams.module == "SAF" else self.reason(nodes)
            columns.append(torch.sigmoid(self.head(vectors)))
        return torch.cat(columns, 1)

    def reason(self, x):
        for step in self.reduce.steps:
            edges = torch.softmax(step.query(x) @ step.key(x).transpose(1, 2), dim=-1)
            x = F.relu(step.graph(edges @ x))
        return x[:, 0]

    def filter(self, x):
        gate = torch.sigmoid(self.reduce.norm(self.reduce.attend(x).transpose(1, 2)))  # (I, 1, n)
        return unit(((gate / (gate.sum(-1, keepdim=True) + 1e-8)) @ x).squeeze(1))


def captions_of(size: int, generator) -> Captions:
    lengths = torch.randn(size, generator=generator) * 2.6 + 13.3  # COCO's mean and deviation
    lengths = tuple(lengths.round().int().clamp(8, 30).tolist())
    tokens = torch.zeros(size, max(lengths), dtype=torch.long)
    for row, n in zip(tokens, lengths, strict=True):
        row[:n] = torch.randint(4, VOCAB, (n,), generator=generator)
    rows = torch.arange(size)
    return Captions(tokens, lengths, rows, rows)


def images_of(size: int, generator) -> Images:
    regions = torch.rand(size, 36, 2048, generator=generator)
    return Images(regions, torch.ones(size, 36, dtype=torch.bool), torch.arange(size))


def step(matcher, optimizer, pairs):
    optimizer.zero_grad()
    scores = matcher(pairs.images, pairs.captions)
    loss = matcher.loss(scores, pairs, None)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(matcher.parameters(), 2.0)
    optimizer.step()
    return torch.stack([loss.detach(), norm]), scores.detach()


def race(name, contestants, runs, tolerance):
    """Alternate itm and plain; both must agree; the best processor time of each."""
    best = [float("inf")] * 2
    for _ in range(runs):
        results = []
        for kind, run in enumerate(contestants):
            began = time.process_time()
            results.append(run())
            best[kind] = min(best[kind], time.process_time() - began)
        for ours, plain in zip(*results, strict=True):
            if not torch.allclose(ours, plain, rtol=tolerance, atol=tolerance):
                raise SystemExit(f"{name}: results differ by {(ours - plain).abs().max():.2g}")
    ratio = best[1] / best[0]
    print(f"{name}: itm {best[0]:.2f} s, plain {best[1]:.2f} s, ratio {ratio:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--module", nargs="*", default=["SGR", "SAF"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--captions", type=int, default=500)
    parser.add_argument("--runs", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for module in args.module:
        torch.manual_seed(0)
        # Without dropout, so that both must give the same number.
        ours = SGRAF(VOCAB, module=module, dropout=0.0, loss=Triplet())
        plain = Plain(VOCAB, module=module, dropout=0.0, loss=Triplet())
        plain.load_state_dict(ours.state_dict())
        if args.captions:
            with torch.no_grad():
                images = ours.eval().encode_images(images_of(args.images, generator))
                captions = ours.encode_captions(captions_of(args.captions, generator))
                race(
                    f"{module} similarity {args.images} x {args.captions}",
                    [lambda m=m: (m.eval().similarity(images, captions),) for m in (ours, plain)],
                    args.runs,
                    1e-5,
                )
        if args.batch:
            pairs = Pairs(images_of(args.batch, generator), captions_of(args.batch, generator))
            both = [(m.train(), torch.optim.Adam(m.parameters(), lr=2e-4)) for m in (ours, plain)]
            race(
                f"{module} training step, batch {args.batch}",
                [lambda m=m, o=o: step(m, o, pairs) for m, o in both],
                args.runs,
                1e-3,
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the process {peak:.1f} GiB")


if __name__ == "__main__":
    main()
