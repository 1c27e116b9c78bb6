"""Measure how relevant a caption is for an image: CIDEr-D, SPICE, sentences, your own matrix.

A relevance is a (captions, images) matrix; larger is more relevant. `itm.metrics.evaluate` uses it
for graded metrics, and the SAM loss computes its margins from CIDEr-D within a batch
(`CiderIndex.batch`).

Examples:
    >>> from itm.relevance import CiderIndex
    >>> captions = ["a dog runs", "the dog is running", "a red car", "one red car"]
    >>> index = CiderIndex(captions, [0, 0, 1, 1])
    >>> index.matrix().shape  # captions, images
    (4, 2)
"""

from itm.relevance.cider_d import CiderIndex, cider
from itm.relevance.ngrams import (
    DocumentFrequencies,
    coco_tokens,
    document_frequencies,
    whitespace_tokens,
)
from itm.relevance.sentences import sentence_similarity
from itm.relevance.sources import group_captions, relevance, spice

__all__ = [
    "CiderIndex",
    "DocumentFrequencies",
    "cider",
    "coco_tokens",
    "document_frequencies",
    "group_captions",
    "relevance",
    "sentence_similarity",
    "spice",
    "whitespace_tokens",
]
