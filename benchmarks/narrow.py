"""Measure whole training steps and whole scoring at width 256, in float32 and in bfloat16.

Flickr8k's sizes with narrow features (36 regions of 256 values, 2,937 words). Each row compares
with the same plain code in float32, also the rows of bfloat16: they say what a user gains by
`trainer.precision=bf16-mixed` and `precision=bf16-mixed` on this processor.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks import casc, cvse, sgraf, vsrn
from benchmarks.measure import (
    PlainGRU,
    Row,
    Variant,
    captions_of,
    compare,
    images_of,
    products_of,
    race,
    training_step,
)
from benchmarks.scan import lean
from itm.batch import Captions, Chunk, Pairs, take
from itm.losses import Triplet
from itm.matcher.scoring import score_encoded
from itm.models import CASC, SCAN, SGRAF, VSRN

VOCAB, LABELS = 2937, 300
SIZES = {  # batch, images and captions of the scoring, width
    "tiny": (4, 4, 20, 16),
    "small": (32, 32, 160, 256),
    "paper": (128, 128, 384, 256),
}
I2T = {"direction": "i2t", "temperature": 4.0, "aggregation": "LogSumExp", "lambda_lse": 5.0}
TOLERANCE = {"float32": 1e-3, "bf16": 0.05}  # of scores in (-1, 1), losses and gradients
GOALS = {
    "SGR training step": {"float32": {"speed": 2.2}, "bf16": {"speed": 3.0}},
    "SAF training step": {"float32": {"speed": 2.2}, "bf16": {"speed": 3.0}},
    "SGR scores": {"bf16": {"speed": 3.0}},
    "SAF scores": {"bf16": {"speed": 3.0}},
    "CASC scores": {"float32": {"product": 1.5}},
}


class PlainSCAN(SCAN):
    def similarity(self, images, captions):
        return lean(images, captions, self.cross)


KINDS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "SCAN t2i": (SCAN, PlainSCAN, {}),
    "SCAN i2t": (SCAN, PlainSCAN, I2T),
    "CASC": (CASC, casc.Plain, {}),
    "SGR": (SGRAF, sgraf.Plain, {"module": "SGR", "dropout": 0.0}),
    "SAF": (SGRAF, sgraf.Plain, {"module": "SAF", "dropout": 0.0}),
    "VSRN": (VSRN, vsrn.Plain, {"caption_dropout": 0.0}),
}


def rows(size: str) -> Iterator[Row]:
    batch, images, captions, width = SIZES[size]
    for name, (kind, plain, options) in KINDS.items():
        ours, other = (make(x, width, options) for x in (kind, plain))
        pairs = Pairs(images_of(batch, width=width), captions_of(batch, VOCAB, LABELS))
        yield from steps(f"{name} training step", ours, other, pairs)
        if kind is not VSRN:
            sides = encoded(ours, images, captions, width)
            yield from scores(f"{name} scores", ours, other, *sides)
    ours, other = (cvse.make(LABELS, VOCAB, width, width) for _ in range(2))
    other.text.__class__ = PlainGRU
    yield from steps("CVSE training step", ours, other, pairs, lambda: cvse.plain(other, pairs))


def make(kind: type, width: int, options: dict[str, Any]) -> Any:
    """Build a matcher; without dropout, because its noise would hide differences."""
    torch.manual_seed(0)
    options = {"num_labels": LABELS, **options} if issubclass(kind, CASC) else options
    matcher = kind(VOCAB, img_dim=width, embed_dim=width, **options, loss=Triplet())
    if kind not in (SCAN, CASC, SGRAF, VSRN):
        matcher.text.__class__ = PlainGRU
    return matcher


def steps(
    task: str, ours: Any, other: Any, pairs: Pairs, loss: Callable[[], Tensor] | None = None
) -> Iterator[Row]:
    """Compare training steps; those in bfloat16 by their loss alone."""

    def low() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return ours.losses(pairs)["total"]

    own, plain = training_step(ours.train(), pairs), training_step(other.train(), pairs, loss)
    half = training_step(ours, pairs, low)
    size = f"batch {len(pairs.images.regions)}"
    yield from both(task, size, {"itm": own, "bf16": half, "plain loop": plain})


def scores(
    task: str, ours: Any, other: Any, images: list[Chunk], captions: list[Chunk]
) -> Iterator[Row]:
    """Compare scoring from encodings, as an evaluation does it."""

    def run(matcher: Any, precision: str) -> Variant:
        return lambda: torch.from_numpy(
            score_encoded(matcher, images, captions, precision=precision)
        )

    variants = {"itm": run(ours, "32-true"), "bf16": run(ours, "bf16-mixed")}
    size = " x ".join(str(sum(len(rows) for _, rows in side)) for side in (images, captions))
    yield from both(task, size, {**variants, "plain loop": run(other, "32-true")})


def both(task: str, size: str, variants: dict[str, Variant]) -> Iterator[Row]:
    """Make a row of float32 and one of bfloat16, each beside the plain code in float32.

    Scores are one matrix. Of a step's numbers, a loss and gradients, bfloat16 keeps the loss.
    """
    runs = race(variants, rounds=3)
    for name, key in (("float32", "itm"), ("bf16", "bf16")):
        pair = {"itm": runs[key], "plain loop": runs["plain loop"]}
        if key == "bf16":
            pair = {k: run._replace(result=run.result[:1]) for k, run in pair.items()}
        product = products_of(variants[key]) if key == "itm" else None
        goals = GOALS.get(task, {}).get(name, {})
        columns = {"product": product, "targets": goals}
        yield compare(f"{task}, {size}, {name}", pair, TOLERANCE[name], **columns)


def encoded(
    matcher: Any, images: int, captions: int, width: int
) -> tuple[list[Chunk], list[Chunk]]:
    """Encode images and captions as an evaluation keeps them: in chunks, captions by length."""
    text = captions_of(captions, VOCAB)
    sides: tuple[list[Chunk], list[Chunk]] = ([], [])
    with torch.no_grad():
        pictures = matcher.eval().encode_images(images_of(images, width=width))
        for rows in torch.arange(images).split(128):
            sides[0].append((take(pictures, rows), rows))
        for rows in torch.arange(captions).split(128):  # longest first
            lengths = text.lengths[int(rows[0]) : int(rows[-1]) + 1]
            chunk = Captions(text.tokens[rows, : lengths[0]], lengths, rows, rows)
            sides[1].append((matcher.encode_captions(chunk), rows))
    return sides
