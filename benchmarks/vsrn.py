"""Compare VSRN's training step with captioning with the same step and a plainly written decoder.

The plain decoder follows the published description word by word: always 59 steps, and at every
step the whole attention layer on [encoder state; decoder state] and the word logits of every
caption.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.measure import PlainGRU, Row, pairs_of, race_steps, training_step
from itm.losses import Triplet
from itm.models.vsrn.vsrn import VSRN

MAX_LEN = 60
SIZES = {"tiny": (4, 50, 16), "small": (8, 10006, 2048), "paper": (128, 10006, 2048)}


def rows(size: str) -> Iterator[Row]:
    batch, vocab, width = SIZES[size]
    torch.manual_seed(0)
    # without dropout, so that both must give the same number
    options = {"embed_dim": width, "caption_dropout": 0.0}
    ours, plain = (kind(vocab, **options, loss=Triplet()) for kind in (VSRN, Plain))
    plain.text.__class__ = PlainGRU
    plain.load_state_dict(ours.state_dict())
    pairs = pairs_of(batch, vocab)
    steps = [training_step(m, pairs) for m in (ours, plain)]
    task = f"training step with captions, batch {batch}"
    yield race_steps(task, steps[0], "plain decoder", steps[1], 1, targets={"speed": 1.3})


def plain_caption_loss(captioner, regions, captions):
    """Sum -log p over the words of each caption and average over captions."""
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
