"""Make the page of `python -m itm.evaluate failures=20`: the worst queries and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from itm.data.layout import Split
from itm.data.pictures import Pictures
from itm.runs.evaluation_files import Evaluated, whole_ranks
from itm.runs.plain_files import data_name
from itm.runs.queries import Query, image_names, worst_queries
from itm.utils.files import write_text
from itm.visual.html import Table, render
from itm.visual.thumbnails import thumbnail_of


def write_failures(
    folder: Path,
    rows: Mapping[str, Evaluated],
    owner: np.ndarray,
    split: Split,
    protocol: str,
    pictures: Pictures,
    number: int,
) -> None:
    """Write failures.html: the worst queries of the ensemble, or of the first row if there is none.

    Args:
        folder: folder to write into.
        rows: rows of the evaluation, by name.
        owner: (M,) row of each caption's image.
        split: N images, M captions.
        protocol: protocol of the evaluation.
        pictures: pictures of the images.
        number: number of queries per direction.
    """
    name = next((row for row in rows if row.startswith("ensemble of ")), next(iter(rows)))
    ranks = whole_ranks(rows[name], owner, protocol)
    worst = worst_queries(rows[name].scores, split, ranks, number)
    about = f"{name} on {data_name(split.folder)} {split.name}, {split.num_images} images"
    page = failures_page(worst, split, pictures, "Worst queries", about)
    write_text(folder / "failures.html", page)


def failures_page(
    found: Sequence[Query], split: Split, pictures: Pictures, title: str, about: str
) -> str:
    """Make the page of the given queries.

    Args:
        found: queries, worst first.
        split: split of the images and captions.
        pictures: pictures of its images.
        title: title of the page.
        about: one line on what was measured.
    """
    names = image_names(split)
    sections = [
        _image_query(query, split, names, pictures)
        if query.direction == "i2t"
        else _caption_query(query, split, names, pictures)
        for query in found
    ]
    return render("failures.html", {"title": title, "about": about, "failures": sections})


def _image_query(
    query: Query, split: Split, names: Sequence[str], pictures: Pictures
) -> dict[str, Any]:
    """Show the picture of an image, the captions ranked first, and the best right one."""
    rows = [
        (place, split.captions[i], names[split.caption_image[i]], f"{score:.4f}", _right(is_right))
        for place, (i, score) in enumerate(zip(query.retrieved, query.scores, strict=True), 1)
        for is_right in [split.caption_image[i] == query.row]
    ]
    if query.rank > len(rows):
        rows.append((query.rank, split.captions[query.right], query.name, "", "right"))
    return {
        "title": f"Image {query.name}",
        "note": f"its best {split.noun} has rank {query.rank} of {len(split.captions)}",
        "query": thumbnail_of(pictures, query.name),
        "captions": Table(["rank", "caption", "image", "score", ""], rows),
        "images": None,
    }


def _caption_query(
    query: Query, split: Split, names: Sequence[str], pictures: Pictures
) -> dict[str, Any]:
    """Show the images ranked first, and the right one."""
    shown = list(
        zip(range(1, len(query.retrieved) + 1), query.retrieved, query.scores, strict=True)
    )
    cards = [
        _card(
            split, names, pictures, i, f"{place}. {names[i]}, score {score:.4f}", i == query.right
        )
        for place, i, score in shown
    ]
    if query.right not in query.retrieved:
        note = f"{query.rank}. {names[query.right]}, the right one"
        cards.append(_card(split, names, pictures, query.right, note, True))
    return {
        "title": split.captions[query.row],
        "note": f"{split.noun} {query.name}: its image has rank {query.rank} of {split.num_images}",
        "query": None,
        "captions": None,
        "images": cards,
    }


def _card(
    split: Split, names: Sequence[str], pictures: Pictures, row: int, note: str, right: bool
) -> dict[str, Any]:
    own = next(
        (c for c, i in zip(split.captions, split.caption_image, strict=True) if i == row), ""
    )
    picture = thumbnail_of(pictures, names[row])
    return {"caption": own, "note": note, "picture": picture, "good": right}


def _right(is_right: bool) -> str:
    return "right" if is_right else ""
