"""A VSRN training step with captions against the same step with a plainly written decoder.

Paper width (2048, 4 graph blocks, 10006 words), small batch. The plain decoder does what the
published description says, word by word: always 59 steps, the whole attention layer on
[encoder state; decoder state] at every step, and the word logits of every caption at every step.
Both must give the same loss. Times are processor seconds of one thread, so that other work on the
machine does not count; the best of several alternating runs.

    python benchmarks/vsrn.py [--batch 32] [--runs 2]
"""

import argparse
import time

import torch
import torch.nn.functional as F

from itm.batch import Captions, Images, Pairs
from itm.losses import Triplet
from itm.models.vsrn import VSRN

VOCAB, MAX_LEN = 10006, 60


def plain_caption_loss(captioner, regions, captions):
    """Sum of -log p over the words of each caption, mean over captions, by the book."""
    states, hidden = captioner.encoder(captioner.dropout(captioner.project(regions)))
    hidden = hidden[0]
    B, R, H = states.shape
    labels = torch.zeros(B, MAX_LEN + 1, dtype=torch.long)
    mask = torch.zeros(B, MAX_LEN + 1)
    for b, n in enumerate(captions.lengths):
        labels[b, :n] = captions.tokens[b, :n]
        mask[b, : n + 1] = 1
    steps = []
    for i in range(MAX_LEN - 1):
        pairs = torch.cat([states, hidden[:, None].expand(B, R, H)], dim=2).reshape(B * R, 2 * H)
        energy = captioner.energy(torch.tanh(captioner.attend(pairs))).view(B, R)
        context = torch.bmm(torch.softmax(energy, 1)[:, None], states)[:, 0]
        read = captioner.dropout(torch.cat([captioner.embed(labels[:, i]), context], dim=1))
        hidden = captioner.decoder(read, hidden)
        steps.append(F.log_softmax(captioner.out(hidden), dim=1))
    logp = torch.stack(steps, 1)  # (B, 59, V)
    nll = -logp.gather(2, labels[:, 1:MAX_LEN, None])[..., 0]
    return (nll * mask[:, 1:MAX_LEN]).sum() / B


class Plain(VSRN):
    def extra_losses(self, pairs, images, captions):
        return {"caption": plain_caption_loss(self.captioner, images.parts, pairs.captions)}


def batch(size: int) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    regions = torch.rand(size, 36, 2048, generator=generator)
    # COCO captions: 12 tokens with markers in the mean
    lengths = tuple(torch.randint(8, 21, (size,), generator=generator).tolist())
    tokens = torch.zeros(size, max(lengths), dtype=torch.long)
    for row, n in zip(tokens, lengths, strict=True):
        row[:n] = torch.randint(4, VOCAB, (n,), generator=generator)
        row[0], row[n - 1] = 1, 2
    rows = torch.arange(size)
    images = Images(regions, torch.ones(size, 36, dtype=torch.bool), rows)
    return Pairs(images, Captions(tokens, lengths, rows, rows))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--runs", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # Without dropout, so that both must give the same number.
    ours = VSRN(VOCAB, caption_dropout=0.0, loss=Triplet())
    plain = Plain(VOCAB, caption_dropout=0.0, loss=Triplet())
    plain.load_state_dict(ours.state_dict())
    pairs = batch(args.batch)

    def step(matcher, optimizer) -> tuple[float, float]:
        began = time.process_time()
        optimizer.zero_grad()
        loss = matcher.losses(pairs)["total"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(matcher.parameters(), 2.0)
        optimizer.step()
        return time.process_time() - began, loss.item()

    both = [(m, torch.optim.Adam(m.parameters(), lr=2e-4)) for m in (ours, plain)]
    times: list[list[float]] = [[], []]
    for run in range(args.runs + 1):  # the first warms up
        losses = []
        for kind, (matcher, optimizer) in enumerate(both):
            seconds, loss = step(matcher, optimizer)
            losses.append(loss)
            if run:
                times[kind].append(seconds)
        if not abs(losses[0] - losses[1]) <= 1e-4 * abs(losses[1]):
            raise SystemExit(f"the losses differ: {losses}")
    fast, slow = min(times[0]), min(times[1])
    print(f"training step, batch {args.batch}: itm {fast:.2f} s, plain decoder {slow:.2f} s")
    print(f"ratio {slow / fast:.2f}")


if __name__ == "__main__":
    main()
