"""Compare SGRAF with a plain loop over captions.

The plain form follows the published description: for each caption, and all images at once, it
computes attended region vectors, squared differences, and three full graph steps or the
filtration.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.measure import (
    PlainGRU,
    Row,
    captions_of,
    compare,
    images_of,
    pairs_of,
    products_of,
    race,
    race_steps,
    training_step,
)
from itm.batch import Encoded
from itm.losses import Triplet
from itm.models.sgraf.sgraf import SGRAF

VOCAB = 11353
SIZES = {  # images, captions of the similarity; batch; width D
    "tiny": (4, 20, 4, 16),
    "small": (16, 80, 16, 1024),
    "paper": (32, 160, 128, 1024),
}
SPEED = {"SGR": 1.8, "SAF": 1.3}


def rows(size: str) -> Iterator[Row]:
    images, captions, batch, width = SIZES[size]
    for module, speed in SPEED.items():
        torch.manual_seed(0)
        # without dropout, so that both must give the same number
        options = {"embed_dim": width, "module": module, "dropout": 0.0}
        ours = SGRAF(VOCAB, **options, loss=Triplet()).eval()
        plain = Plain(VOCAB, **options, loss=Triplet()).eval()
        plain.text.__class__ = PlainGRU
        plain.load_state_dict(ours.state_dict())
        with torch.no_grad():
            sides = (
                ours.encode_images(images_of(images)),
                ours.encode_captions(captions_of(captions, VOCAB)),
            )
        variants = {
            name: lambda m=m: torch.no_grad()(m.similarity)(*sides)
            for name, m in (("itm", ours), ("plain loop", plain))
        }
        task, product = f"{module} similarity {images} x {captions}", products_of(variants["itm"])
        goal = {"speed": speed}
        yield compare(task, race(variants), 1e-5, product=product, targets=goal)
        pairs = pairs_of(batch, VOCAB)
        steps = [training_step(m.train(), pairs) for m in (ours, plain)]
        task = f"{module} training step, batch {batch}"
        yield race_steps(task, steps[0], "plain loop", steps[1], 1, targets={"speed": speed})


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
