"""Report what each query of an evaluation retrieved: a table of all queries, and the worst ones.

An image is named by its id, a caption by the id of its image and its place among the image's
captions, from 1: "36979#2". Ranks count from 1, too: 1 = a right item came first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from itm.data.layout import Split, name_of
from itm.metrics.ranking import Ranks, as_floats, topk
from itm.runs.tables import csv_table

COLUMNS = ("direction", "query", "rank", "right", "first", "score", "caption")


class Query(NamedTuple):
    """One query.

    Attributes:
        direction: "i2t" (an image searches captions) or "t2i" (a caption searches images).
        row: row of the image or caption in the split, from 0.
        name: name of the query.
        rank: rank of the best right item, from 1.
        retrieved: rows of the items in the order of their scores, best first.
        scores: scores of these items.
        right: row of the best right item.
    """

    direction: str
    row: int
    name: str
    rank: int
    retrieved: list[int]
    scores: list[float]
    right: int


def image_names(split: Split) -> list[str]:
    """Return the id of every image, or its row."""
    return [name_of(split, row) for row in range(split.num_images)]


def caption_names(split: Split) -> list[str]:
    """Name every caption by its image and its place among the captions of the image, from 1."""
    images, seen, names = image_names(split), Counter[int](), []
    for image in map(int, split.caption_image):
        seen[image] += 1
        names.append(f"{images[image]}#{seen[image]}")
    return names


def queries(
    scores: np.ndarray, split: Split, ranks: Ranks, rows: Sequence[np.ndarray], top: int
) -> list[Query]:
    """Collect what some queries retrieved.

    Args:
        scores: (N, M).
        split: N images, M captions.
        ranks: 0-based ranks (N,) and (M,); -1 = the image has no captions.
        rows: rows of the images and rows of the captions to collect.
        top: number of retrieved items.
    """
    names = image_names(split), caption_names(split)
    owner = split.caption_image
    found = []
    for side, direction in enumerate(("i2t", "t2i")):
        matrix = scores if side == 0 else scores.T
        for row in map(int, rows[side]):
            if ranks[side][row] < 0:
                continue
            line = as_floats(matrix[row])
            own = np.flatnonzero(owner == row) if side == 0 else owner[row : row + 1]
            right = int(own[np.argmax(line[own])])
            best = topk(line[None], min(top, len(line)))[0]
            hits, values = [int(i) for i in best], [float(line[i]) for i in best]
            rank = int(ranks[side][row]) + 1
            found.append(Query(direction, row, names[side][row], rank, hits, values, right))
    return found


def worst_queries(
    scores: np.ndarray, split: Split, ranks: Ranks, number: int, top: int = 5
) -> list[Query]:
    """Find the queries of each direction whose right items came last, worst first.

    Args:
        scores: (N, M).
        split: N images, M captions.
        ranks: 0-based ranks (N,) and (M,).
        number: number of queries per direction; queries whose right item came first are left out.
        top: number of retrieved items.
    """
    rows = []
    for side in ranks:
        order = np.argsort(-side, kind="stable")[:number]
        rows.append(order[side[order] > 0])
    return queries(scores, split, ranks, rows, top)


def query_table(scores: np.ndarray, split: Split, ranks: Ranks) -> str:
    """Format all queries as CSV: the item that came first, and the rank of the best right item.

    Args:
        scores: (N, M).
        split: N images, M captions.
        ranks: 0-based ranks (N,) and (M,).
    """
    every = [np.arange(len(side)) for side in ranks]
    images, captions = image_names(split), caption_names(split)
    rows = []
    for query in queries(scores, split, ranks, every, 1):
        items, text = (
            (captions, "") if query.direction == "i2t" else (images, split.captions[query.row])
        )
        first, score = items[query.retrieved[0]], f"{query.scores[0]:.6g}"
        rows.append(
            [query.direction, query.name, query.rank, items[query.right], first, score, text]
        )
    return csv_table(COLUMNS, rows)
