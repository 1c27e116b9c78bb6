"""How relevant a caption is for an image: CIDEr-D, SPICE, or a matrix of one's own.

A relevance is a (captions, images) matrix; larger is more relevant. `itm.metrics.evaluate` scores
retrieval with it, and the SAM loss makes its margins from CIDEr-D inside a batch
(`CiderIndex.batch`).
"""

from itm.relevance.cider_d import CiderIndex, cider
from itm.relevance.ngrams import (
    DocumentFrequencies,
    coco_tokens,
    document_frequencies,
    whitespace_tokens,
)
from itm.relevance.sources import group_captions, relevance, spice

__all__ = [
    "CiderIndex",
    "DocumentFrequencies",
    "cider",
    "coco_tokens",
    "document_frequencies",
    "group_captions",
    "relevance",
    "spice",
    "whitespace_tokens",
]
