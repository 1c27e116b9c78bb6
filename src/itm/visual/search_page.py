"""Make the page of `python -m itm.search`: images as cards, captions as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from itm.data.pictures import Pictures
from itm.visual.html import Table, render
from itm.visual.thumbnails import thumbnail_of

Hits = Sequence[tuple[Any, float]]  # an image's id or a caption, and its score; best first
OwnCaptions = Mapping[str, Sequence[str]]  # id of each image -> its own captions


def search_page(
    answers: Sequence[tuple[str, str, Hits]], captions: OwnCaptions, pictures: Pictures, about: str
) -> str:
    """Make the page with the answers to some queries.

    Args:
        answers: query (a sentence or an image's id), "images" or "captions", and the hits.
        captions: captions of every image that is a query or a hit.
        pictures: pictures of these images.
        about: one line on what was searched.
    """
    sections = [
        _of_images(query, hits, captions, pictures)
        if to == "images"
        else _of_captions(query, hits, captions, pictures)
        for query, to, hits in answers
    ]
    return render("search.html", {"title": "Search", "about": about, "answers": sections})


def _of_images(query: str, hits: Hits, captions: OwnCaptions, pictures: Pictures) -> dict[str, Any]:
    """Make one card per image, and mark the images that the sentence was written for."""
    cards = [
        {
            "caption": next(iter(captions[item]), ""),
            "note": f"{place}. {item}, score {score:.4f}",
            "picture": thumbnail_of(pictures, item),
            "good": query in captions[item],
        }
        for place, (item, score) in enumerate(hits, 1)
    ]
    return {"title": query, "images": cards, "captions": None, "picture": None}


def _of_captions(
    query: str, hits: Hits, captions: OwnCaptions, pictures: Pictures
) -> dict[str, Any]:
    """Show the picture of the image, and one row per caption."""
    rows = [
        (place, item, f"{score:.4f}", "its own" if item in captions[query] else "")
        for place, (item, score) in enumerate(hits, 1)
    ]
    return {
        "title": f"Image {query}",
        "images": None,
        "captions": Table(["", "caption", "score", ""], rows),
        "picture": thumbnail_of(pictures, query),
    }
