"""A score matrix -> numbers: ranks, recalls, named protocols.

Recall@K is the field's own: the share of queries with at least one right item among the first K.
For an image with five captions one of them suffices; it is a hit rate, not a true recall.
"""

from itm.metrics.protocols import PROTOCOLS, Protocol
from itm.metrics.ranking import ranks, streamed_ranks, topk
from itm.metrics.retrieval import (
    RetrievalMetrics,
    evaluate,
    evaluate_queries,
    evaluate_vectors,
    recall,
    summary,
)

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "RetrievalMetrics",
    "evaluate",
    "evaluate_queries",
    "evaluate_vectors",
    "ranks",
    "recall",
    "streamed_ranks",
    "summary",
    "topk",
]
