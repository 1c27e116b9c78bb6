"""Encode regions and words as parts that are compared with each other (SCAN, CASC, CHAN)."""

from __future__ import annotations

import torch
from torch import nn

from itm.batch import Captions, Encoded, Images
from itm.layers.cross_attention import CrossAttention
from itm.layers.functional import l2norm
from itm.layers.projection import Norms


def encode_regions(
    images: Images, project: nn.Module, norms: Norms, attention: CrossAttention
) -> Encoded:
    """Compute region vectors (I, R, D), with what the attention prepares once per image."""
    regions = project(images.regions)
    regions = l2norm(regions) if norms.normalize_images else regions
    return attention.prepare(Encoded(parts=regions, mask=images.mask))


def encode_words(captions: Captions, text: nn.Module, normalize: bool) -> Encoded:
    """Compute word vectors (C, L, D), zero beyond each caption's length."""
    words, mask = text(captions)
    return Encoded(
        parts=l2norm(words) if normalize else words,
        mask=mask,
        aux={"lengths": torch.tensor(captions.lengths)},  # stays on the host
    )
