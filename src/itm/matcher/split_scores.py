"""Score the images of a split with the captions of the same or of another split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from itm.data.layout import Split
from itm.layers.text import as_text_encoder
from itm.matcher.inputs import caption_batches, check_features, image_batches
from itm.matcher.scoring import encode, score_encoded
from itm.matcher.shortlist import score_shortlist
from itm.metrics.rerank import Bank
from itm.text.unknown import warn_unknown
from itm.utils.log_files import say

if TYPE_CHECKING:
    from itm.matcher.matcher import Matcher


T = TypeVar("T")


def score_split(
    matcher: Matcher,
    split: Split,
    batch_size: int = 128,
    progress: bool = False,
    precision: str | None = None,
    shortlist: int | None = None,
) -> np.ndarray:
    """Score every image of a split with every caption; each is encoded once.

    Args:
        matcher: with `text=vectors` it reads the split's sentence vectors instead of sentences.
        split: N images, M captions.
        batch_size: number of images or captions encoded at once.
        progress: show a bar on a terminal.
        precision: as in `itm.matcher.Matcher.score`.
        shortlist: score only this many candidates per query, see
            `itm.matcher.shortlist.score_shortlist`; None = all.

    Returns:
        (N, M) float32.

    Raises:
        ValueError: the shortlist is below 1, or the matcher needs none.
    """
    return score_splits(matcher, split, split, batch_size, progress, precision, shortlist)


def score_splits(
    matcher: Matcher,
    pictures: Split,
    texts: Split,
    batch_size: int = 128,
    progress: bool = False,
    precision: str | None = None,
    shortlist: int | None = None,
) -> np.ndarray:
    """Score the N images of one split with the M captions of another, (N, M); see `score_split`."""
    check_features(pictures.view(), matcher)
    vectors = as_text_encoder(matcher.text).needs_vectors
    sentences = texts.sentence_vectors() if vectors else texts.captions
    out = np.empty((pictures.num_images, len(sentences)), np.float32)
    watch = _watch if progress else _silent
    words = caption_batches(matcher, sentences, batch_size)  # first, since this checks them
    batches = image_batches(pictures.view(), batch_size)
    images = encode(matcher, watch(batches, "images", len(out) / batch_size), precision)
    captions = encode(matcher, watch(words, "captions", len(sentences) / batch_size), precision)
    if shortlist is not None:
        chosen = score_shortlist(
            matcher, images, captions, shortlist, out, precision,
            lambda chunks: watch(chunks, "scores", len(chunks)),
        )  # fmt: skip
        _describe(chosen, shortlist, texts.caption_image if texts is pictures else None)
        return out
    return score_encoded(matcher, watch(images, "scores", len(images)), captions, out, precision)


def warn_words(matcher: Matcher, split: Split) -> list[str]:
    """Say what a matcher's vocabulary loses of the sentences of a split, or nothing."""
    if matcher.vocab is None or as_text_encoder(matcher.text).needs_vectors:
        return []
    what = f"the {split.noun}s of split {split.name}"
    return warn_unknown(matcher.vocab, split.captions, what)


def _describe(chosen: np.ndarray, shortlist: int, owner: np.ndarray | None) -> None:
    """Report the share of all pairs, and of the matching pairs, that a shortlist keeps."""
    text = f"shortlist={shortlist}: {chosen.mean():.1%} of the pairs are scored"
    if owner is not None:
        matching = chosen[owner, np.arange(len(owner))].mean()
        text += f", among them {matching:.1%} of the matching pairs"
    say(f"{text}; the others rank behind them")


def score_matchers(
    matchers: Mapping[str, Matcher],
    split: Split,
    batch_size: int,
    memory_budget: int | None,
    precision: str | None = None,
    shortlist: int | None = None,
) -> dict[str, np.ndarray]:
    """Score a split by each matcher, with a bar on a terminal.

    Args:
        matchers: name -> matcher.
        split: N images, M captions.
        batch_size: number of images or captions encoded at once.
        memory_budget: bytes that one block of scores may need; None = chosen for the device.
        precision: as in `itm.matcher.Matcher.score`.
        shortlist: as in `score_split`.

    Returns:
        Name -> (N, M) float32.

    Raises:
        ValueError: the shortlist is below 1, or a matcher needs none.
    """
    scores = {}
    for name, matcher in matchers.items():
        matcher.memory_budget = memory_budget
        scores[name] = score_split(matcher, split, batch_size, True, precision, shortlist)
    return scores


def score_banks(
    matchers: Mapping[str, Matcher],
    split: Split,
    queries: Split,
    batch_size: int,
    precision: str | None = None,
) -> dict[str, Bank]:
    """Score the items of a split for the queries of another, for `itm.metrics.rerank`.

    Args:
        matchers: name -> matcher.
        split: N images, M captions.
        queries: the split whose images and captions are the bank.
        batch_size: number of images or captions encoded at once.
        precision: as in `itm.matcher.Matcher.score`.
    """
    return {
        name: Bank(
            score_splits(matcher, queries, split, batch_size, True, precision),
            score_splits(matcher, split, queries, batch_size, True, precision),
        )
        for name, matcher in matchers.items()
    }


def _watch(items: Iterable[T], what: str, total: float) -> Iterable[T]:
    """Show a bar while items are worked on; it disappears at the end."""
    console = Console(stderr=True)
    return track(
        items, what, math.ceil(total), console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip


def _silent(items: Iterable[T], what: str, total: float) -> Iterable[T]:
    return items
