"""Compute all metrics of a score matrix: recalls, graded relevance, ECCV Caption, CxC, PMRP."""

from __future__ import annotations

import numpy as np

from itm.metrics.eccv import Tables, evaluate_eccv
from itm.metrics.pmrp import pmrp
from itm.metrics.protocols import Protocol
from itm.metrics.ranking import Ranks
from itm.metrics.retrieval import evaluate_graded, evaluate_queries


def evaluate_all(
    scores: np.ndarray,
    caption_image: np.ndarray,
    protocol: str | Protocol = "full",
    relevance: np.ndarray | None = None,
    tables: Tables | None = None,
    codes: np.ndarray | None = None,
    sentences: np.ndarray | None = None,
) -> tuple[dict[str, float], Ranks]:
    """Compute every metric whose data is given, and the ranks of the queries.

    Args:
        scores: (N, M) similarity.
        caption_image: (M,) row of each caption's image.
        protocol: as in `itm.metrics.evaluate`.
        relevance: (M, N); adds the semantic metrics of `itm.metrics.evaluate`.
        tables: adds the metrics of `itm.metrics.eccv.evaluate_eccv`.
        codes: (N, K) object categories; adds `itm.metrics.pmrp.pmrp`. An image without any
            category counts as not annotated.
        sentences: (M, N) similarity of captions and images by their sentences; adds the semantic
            metrics again, under names such as `i2t_text_ncs_10`.

    Returns:
        Name -> value, and the ranks (N,) and (M,) as from `itm.metrics.evaluate_queries`.

    Raises:
        ValueError: sizes do not match each other, the protocol or the tables.
    """
    results, ranks = evaluate_queries(scores, caption_image, protocol, relevance)
    if sentences is not None:
        graded = evaluate_graded(scores, sentences, caption_image, protocol)
        results |= {name.replace("_", "_text_", 1): value for name, value in graded.items()}
    if tables is not None:
        results |= evaluate_eccv(scores, tables)
    if codes is not None:
        results |= pmrp(scores, codes, caption_image, protocol, annotated=np.any(codes > 0, axis=1))
    return results, ranks
