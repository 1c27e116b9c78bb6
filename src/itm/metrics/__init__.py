"""Metrics of a score matrix: ranks, recalls, named protocols.

Recall@K follows the field's convention: the share of queries with at least one right item among
the first K. For an image with five captions one of them suffices, so it is a hit rate rather than
a true recall.

Examples:
    >>> import numpy as np
    >>> from itm.metrics import Bank, reranked
    >>> bank = Bank(images=np.eye(5, 3), captions=np.eye(3, 5))  # 5 further images and captions
    >>> reranked(np.eye(3), "inverted_softmax", bank=bank).i2t.shape
    (3, 3)
"""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "protocols": ["PROTOCOLS", "Protocol"],
        "ranking": ["ranks", "streamed_ranks", "topk"],
        "rerank": ["Bank", "Reranked", "evaluate_reranked", "reranked"],
        "retrieval": ["evaluate", "evaluate_queries", "evaluate_vectors", "recall", "summary"],
        "torchmetric": ["RetrievalMetrics"],
    },
)

if TYPE_CHECKING:
    from itm.metrics.protocols import PROTOCOLS as PROTOCOLS
    from itm.metrics.protocols import Protocol as Protocol
    from itm.metrics.ranking import ranks as ranks
    from itm.metrics.ranking import streamed_ranks as streamed_ranks
    from itm.metrics.ranking import topk as topk
    from itm.metrics.rerank import Bank as Bank
    from itm.metrics.rerank import Reranked as Reranked
    from itm.metrics.rerank import evaluate_reranked as evaluate_reranked
    from itm.metrics.rerank import reranked as reranked
    from itm.metrics.retrieval import evaluate as evaluate
    from itm.metrics.retrieval import evaluate_queries as evaluate_queries
    from itm.metrics.retrieval import evaluate_vectors as evaluate_vectors
    from itm.metrics.retrieval import recall as recall
    from itm.metrics.retrieval import summary as summary
    from itm.metrics.torchmetric import RetrievalMetrics as RetrievalMetrics
