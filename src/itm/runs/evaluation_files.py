"""Evaluate score matrices, and write the files of `python -m itm.evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from itm.data.layout import Split
from itm.metrics.all_metrics import evaluate_all
from itm.metrics.eccv import Tables
from itm.metrics.protocols import PROTOCOLS
from itm.metrics.ranking import Ranks
from itm.metrics.retrieval import ranks as rank_queries
from itm.runs.matrices import fits_split, write_matrices
from itm.runs.queries import query_table
from itm.runs.record import write_json, write_ranks
from itm.utils.files import write_text


class Evaluated(NamedTuple):
    """One row of an evaluation.

    Attributes:
        scores: (N, M).
        metrics: name -> value.
        ranks: 0-based ranks (N,) and (M,) within the folds of the protocol.
    """

    scores: np.ndarray
    metrics: dict[str, float]
    ranks: Ranks


def evaluate_rows(
    matrices: Mapping[str, np.ndarray],
    owner: np.ndarray,
    protocol: str,
    relevance: np.ndarray | None = None,
    tables: Tables | None = None,
    codes: np.ndarray | None = None,
    sentences: np.ndarray | None = None,
) -> dict[str, Evaluated]:
    """Evaluate every matrix; see `itm.metrics.all_metrics.evaluate_all` for the arguments."""
    judged = (owner, protocol, relevance, tables, codes, sentences)
    return {
        name: Evaluated(scores, *evaluate_all(scores, *judged)) for name, scores in matrices.items()
    }


def write_evaluation(
    folder: Path,
    facts: dict[str, Any],
    rows: Mapping[str, Evaluated],
    owner: np.ndarray,
    split: Split,
    save_ranks: bool = True,
    save_similarity: bool = False,
    described: Mapping[int, Sequence[str]] | None = None,
) -> None:
    """Write report.json and, if asked for, ranks, queries, matrices and sentences.

    Args:
        folder: empty folder to write into.
        facts: what was measured and how.
        rows: name -> row; files are numbered in this order, from 0.
        owner: (M,) row of each caption's image.
        split: N images, M captions; a matrix of another split gets no queries_*.csv.
        save_ranks: write ranks_0.npz, ... and queries_0.csv, ...
        save_similarity: write similarity_0.npy, ...
        described: number of a row -> the sentences that its matcher generated, one per image, for
            described_0.txt, ...
    """
    write_json(
        folder / "report.json", {**facts, "results": {k: x.metrics for k, x in rows.items()}}
    )
    for i, row in enumerate(rows.values() if save_ranks else ()):
        write_ranks(folder / f"ranks_{i}.npz", *row.ranks, owner)
        if fits_split(row.scores, split):
            table = query_table(row.scores, split, whole_ranks(row, owner, facts["protocol"]))
            write_text(folder / f"queries_{i}.csv", table)
    if save_similarity:
        write_matrices(folder, [row.scores for row in rows.values()])
    for i, sentences in (described or {}).items():
        write_text(folder / f"described_{i}.txt", "\n".join(sentences) + "\n")


def whole_ranks(row: Evaluated, owner: np.ndarray, protocol: str) -> Ranks:
    """Return the ranks among all items, also if the protocol ranks within folds."""
    return row.ranks if PROTOCOLS[protocol].folds == 1 else rank_queries(row.scores, owner)
