"""Compare CASC with a plain loop over captions that computes every attended vector."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.measure import (
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
from benchmarks.scan import attended, finish
from itm.losses import Triplet
from itm.models import CASC

VOCAB, LABELS = 8481, 500
SIZES = {  # images, captions of the similarity; batch; width D
    "tiny": (4, 20, 4, 16),
    "small": (20, 100, 32, 1024),
    "paper": (40, 200, 128, 1024),
}


def rows(size: str) -> Iterator[Row]:
    images, captions, batch, width = SIZES[size]
    torch.manual_seed(0)
    ours, plain = (kind(VOCAB, embed_dim=width, loss=Triplet()) for kind in (CASC, Plain))
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
    yield compare(
        f"similarity {images} x {captions}",
        race(variants),
        1e-5,
        product=products_of(variants["itm"]),
    )
    pairs = pairs_of(batch, VOCAB, LABELS)
    steps = [training_step(m, pairs) for m in (ours, plain)]
    task = f"training step, batch {batch}"
    yield race_steps(task, steps[0], "plain loop", steps[1], 1, targets={"speed": 6.0})


class Plain(CASC):
    def pairwise(self, images, captions):
        """Compute local scores (I, C) and mean attended vectors (I, C, D) in both directions."""
        scores, means = [], []
        for cross in (self.t2i, self.i2t):
            columns, vectors = [], []
            for words, n in zip(captions.parts, captions.aux["lengths"].tolist(), strict=True):
                query, found = attended(images.parts, words[:n], cross)
                columns.append(finish(F.cosine_similarity(query, found, dim=-1, eps=1e-8), cross))
                vectors.append(found.mean(1))
            scores.append(torch.stack(columns, 1))
            means.append(torch.stack(vectors, 1))
        return (scores[0] + scores[1]) / 2, means

    def similarity(self, images, captions):
        local, means = self.pairwise(images, captions)
        names = (self.head(x).sigmoid() for x in means)  # (I, C, K)
        return 0.8 * local + 0.2 * F.cosine_similarity(*names, dim=-1, eps=1e-8)

    def losses(self, pairs):
        images = self.encode_images(pairs.images)
        captions = self.encode_captions(pairs.captions)
        local, means = self.pairwise(images, captions)
        total = self.loss(local, pairs)
        for x in means:
            own = x.diagonal().T  # (B, D) of matching pairs
            total = total + 10 * F.binary_cross_entropy_with_logits(
                self.head(own), pairs.captions.labels
            )
        return {"total": total}
