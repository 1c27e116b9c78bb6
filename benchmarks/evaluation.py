"""Measure memory and time of an evaluation on the host at the size of COCO 5K.

An embedding network encodes all images and captions and ranks them by their vectors. For cross
attention, all encodings of the split are kept, a few blocks of the full matrix are scored, and the
total time is extrapolated. Bytes are those of the whole process.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from benchmarks.measure import Row, alone, lengths_of, resident
from itm.batch import Encoded
from itm.data.layout import read_split
from itm.matcher.blocks import similarity_matrix
from itm.metrics.retrieval import evaluate_vectors, ranks
from itm.models import SCAN, TwoBranchEmbedding
from itm.text.vocabulary import SPECIALS, Vocabulary

SIZES = {"tiny": (20, 8, 4), "small": (500, 1024, 1), "paper": (5000, 1024, 2)}
# images, width D, number of scored 128 x 128 blocks
ROOM = 6 << 30


def rows(size: str) -> Iterator[Row]:
    images, width, blocks = SIZES[size]
    with tempfile.TemporaryDirectory() as folder:
        yield embedding(Path(folder), images)
    yield cross_attention(images, width, blocks)


def embedding(folder: Path, images: int) -> Row:
    features = open_memmap(folder / "testall_ims.npy", "w+", np.float16, (images, 36, 2048))
    rng = np.random.default_rng(0)
    for row in features:
        row[:] = rng.random((36, 2048), np.float32)
    features.flush()
    words = [f"w{i}" for i in range(10_000)]
    lines = [" ".join(rng.choice(words, 10)) for _ in range(5 * images)]
    (folder / "testall_caps.txt").write_text("\n".join(lines) + "\n")
    split = read_split(folder, "testall")
    matcher = TwoBranchEmbedding(vocab_size=10_004)
    matcher.vocab = Vocabulary([*SPECIALS, *words])

    def run():
        vectors = matcher.embed(split.view()), matcher.embed(captions=split.captions)
        return torch.tensor(evaluate_vectors(*vectors)["rsum"])

    before = resident("VmRSS")
    run = alone(run)
    task = f"embedding network, encode and rank {images} x {5 * images}"
    return Row(task, run.seconds, bytes=(run.bytes or 0) + before, targets={"bytes": ROOM})


def cross_attention(images: int, width: int, blocks: int) -> Row:
    matcher = SCAN(50, img_dim=8, embed_dim=width)
    lengths = torch.tensor(sorted(lengths_of(5 * images)))
    step = 128

    def run():
        torch.manual_seed(0)
        side, texts = [], []
        for rows in torch.arange(images).split(step):
            parts = torch.nn.functional.normalize(torch.randn(len(rows), 36, width), dim=-1)
            real = torch.ones(len(rows), 36, dtype=torch.bool)
            side.append((matcher.cross.prepare(Encoded(parts=parts, mask=real)), rows))
        for rows in torch.arange(len(lengths)).split(step):
            own = lengths[rows]
            mask = torch.arange(int(own.max())) < own[:, None]
            words = torch.nn.functional.normalize(torch.randn(*mask.shape, width), dim=-1)
            texts.append((Encoded(parts=words, mask=mask, aux={"lengths": own}), rows))
        scores = np.random.default_rng(0).random((images, len(lengths)), np.float32)
        start = time.process_time()
        middle = len(texts) // 2  # captions of typical length
        with torch.no_grad():
            similarity_matrix(
                matcher.similarity, side[:1], texts[middle : middle + blocks],
                matcher.pair_floats, out=scores,
            )  # fmt: skip
        spent = time.process_time() - start
        ranks(scores)
        pairs = len(side[0][1]) * sum(len(rows) for _, rows in texts[middle : middle + blocks])
        return [torch.tensor(spent / pairs)]

    before = resident("VmRSS")
    run = alone(run)
    minutes = float(run.result[0]) * 5 * images**2 / 60
    return Row(
        f"SCAN, hold {images} x {5 * images}, score {blocks} blocks, rank",
        run.seconds,
        bytes=(run.bytes or 0) + before,
        note=f"whole matrix: {minutes:.0f} min of one thread",
        targets={"bytes": ROOM},
    )
