"""The matchers, batches and encodings that `benchmarks.gpu` measures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.measure import captions_of, images_of
from itm.batch import Chunk, Encoded, Pairs
from itm.losses import PCMEPP, Triplet
from itm.matcher.matcher import Matcher
from itm.models import (
    CASC,
    CHAN,
    CVSE,
    SCAN,
    SGRAF,
    VSEPP,
    VSRN,
    TwoBranchEmbedding,
    TwoBranchSimilarity,
    VSEInfinity,
)
from itm.text import SPECIALS, Vocabulary

VOCAB = 10_000
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"images": 6, "batch": 4, "features": 8, "width": 16, "product": 64, "steps": 2},
    "paper": {"images": 1000, "batch": 128, "features": 2048, "width": 1024, "product": 8192,
              "steps": 100},
}  # fmt: skip
REGIONS = 36
Row = tuple[str, Callable[[], dict[str, Any]]]  # a name, and what measures it


def matchers(size: dict[str, Any]) -> dict[str, Callable[[], Matcher]]:
    width = size["width"]
    sizes = {"vocab_size": VOCAB, "img_dim": size["features"], "embed_dim": width}
    sizes |= {"loss": Triplet(negatives="all")}  # smooth, so that precisions can be compared
    return {
        "SCAN t2i": lambda: SCAN(**sizes),
        "SCAN i2t": lambda: SCAN(**sizes, direction="i2t", aggregation="LogSumExp"),
        "CASC": lambda: CASC(**sizes),
        "SGR": lambda: SGRAF(**sizes, dropout=0.0),
        "SAF": lambda: SGRAF(**sizes, module="SAF", dropout=0.0),
        "VSRN": lambda: VSRN(**{**sizes, "embed_dim": 2 * width}, caption_dropout=0.0),
        "CVSE": lambda: CVSE(**sizes, dropout=0.0),
        "VSE++": lambda: VSEPP(**sizes),
        "VSE-infinity": lambda: VSEInfinity(**sizes),
        "PCME++": lambda: VSEInfinity(**{**sizes, "loss": PCMEPP()}, probabilistic=True, mlp=False),
        "CHAN": lambda: CHAN(**sizes),
        "two-branch, embedding": lambda: TwoBranchEmbedding(**sizes, dropout=0.0),
        "two-branch, similarity": lambda: TwoBranchSimilarity(**sizes, dropout=0.0),
    }


def batch_of(name: str, matcher: Matcher, count: int, size: dict[str, Any]) -> Pairs:
    kinds = {"CASC": matcher.hparams.get("num_labels"), "CVSE": 300}
    captions = captions_of(count, VOCAB, kinds.get(name) or 0)
    images = images_of(count, REGIONS, size["features"])
    if matcher.num_regions is None:  # the second image has fewer regions
        images.mask[1, REGIONS // 2 :] = False
        images.regions[1, REGIONS // 2 :] = 0
    return Pairs(images, captions)


def vocabulary() -> Vocabulary:
    return Vocabulary([*SPECIALS, *(f"w{i}" for i in range(VOCAB - len(SPECIALS)))])


def plain_data(images: int, size: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
    """Make float16 features of images, and five sentences for each."""
    rng = np.random.default_rng(0)
    features = rng.random((images, REGIONS, size["features"]), np.float32).astype(np.float16)
    words = rng.integers(0, 1000, (5 * images, 20))
    return features, [" ".join(f"w{w}" for w in row[: 5 + i % 15]) for i, row in enumerate(words)]


def random_sides(
    images: int, lengths: torch.Tensor, width: int, device: torch.device
) -> list[list[Chunk]]:
    """Make chunks of encodings as evaluation keeps them: unit vectors in float32."""

    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, device=device), dim=-1)

    side, texts = [], []
    for rows in torch.arange(images).split(256):
        real = torch.ones(len(rows), REGIONS, dtype=torch.bool, device=device)
        side.append((Encoded(unit(len(rows), width), unit(len(rows), REGIONS, width), real), rows))
    for rows in torch.arange(len(lengths)).split(256):
        own = lengths[rows]
        mask = (torch.arange(int(own.max())) < own[:, None]).to(device)
        words = unit(*mask.shape, width) * mask[..., None]
        texts.append((Encoded(unit(len(rows), width), words, mask, {"lengths": own}), rows))
    return [side, texts]
