"""Find the region that a phrase means: score regions, rank them, compute the accuracy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from itm.metrics.ranking import KS
from itm.phrases.split import Phrase, PhraseSplit
from itm.text.bert_vocabulary import BertVocabulary
from itm.utils.checks import check_choice
from itm.utils.log_files import say

if TYPE_CHECKING:
    from torch import Tensor

    from itm.batch import Captions, Images
    from itm.matcher.matcher import Matcher


FOUND = 0.5  # a region is right from this overlap on
CONTEXTS = ("caption", "phrase")


@runtime_checkable
class Grounding(Protocol):
    """A matcher that scores phrases with single regions, such as the two-branch networks."""

    def ground(self, images: Images, captions: Captions, image: Tensor | None = None) -> Tensor:
        """Score each of B phrases with the regions of its image, (B, R), -inf for padding.

        Args:
            images: I images.
            captions: B phrases.
            image: (B,) row of each phrase's image; None = phrase b belongs to image b.
        """
        ...


def check_scores_regions(matcher: Matcher) -> None:
    """Check that a matcher scores single regions.

    Raises:
        ValueError: it has neither `ground` nor region-word attention.
    """
    from itm.matcher.matcher import Matcher  # late: loads torch

    if not isinstance(matcher, Grounding) and type(matcher).attention is Matcher.attention:
        raise ValueError(
            f"{type(matcher).__name__} compares whole images with whole sentences, so it scores no "
            "regions; localise with a two-branch network (model.level=region) or with a model that "
            "has region-word attention (scan, sgr, saf, casc, chan)"
        )


def region_scores(
    matcher: Matcher,
    split: PhraseSplit,
    context: str = "caption",
    vectors: np.ndarray | None = None,
    batch_size: int = 16,
) -> np.ndarray:
    """Score how well each phrase fits the regions of its image.

    A `Grounding` matcher compares the phrase with every region. For a cross-attention model, the
    score of a region is its mean attention to the words of the phrase.

    Args:
        matcher: a `Grounding` matcher or a cross-attention model.
        split: M phrases.
        context: for attention models: "caption" reads the words of a phrase within its caption, if
            the phrase has one; "phrase" reads the phrase alone. Phrases that a BERT does not reach,
            because it cuts their long captions, are read alone, too, and counted aloud.
        vectors: (M, F) vectors of the phrases, for matchers with text=vectors.
        batch_size: images per step.

    Returns:
        (M, R) float32, larger = better.

    Raises:
        ValueError: the matcher does not score single regions, or `context` or `vectors` do not fit.
    """
    import torch  # late: the other functions of this module work without it

    from itm.matcher.scoring import evaluating

    check_choice("context", context, CONTEXTS)
    grounding = matcher if isinstance(matcher, Grounding) else None
    if grounding is not None and context != CONTEXTS[0]:
        raise ValueError(
            f"context={context} has no effect: {type(matcher).__name__} always reads a phrase alone"
        )
    if vectors is not None and grounding is None:
        raise ValueError(f"{type(matcher).__name__} reads words, not vectors of phrases")
    if vectors is not None and len(vectors) != len(split.phrases):
        raise ValueError(f"{len(vectors)} phrase vectors for {len(split.phrases)} phrases")
    check_scores_regions(matcher)
    out = np.empty((len(split.phrases), split.regions), np.float32)
    starts = np.searchsorted(split.caption_image, np.arange(split.num_images + 1))
    step = 1 if grounding is None else batch_size
    with evaluating(matcher), torch.no_grad():
        for first in range(0, split.num_images, step):
            images = np.arange(first, min(first + step, split.num_images))
            rows = slice(starts[images[0]], starts[images[-1] + 1])
            if rows.start == rows.stop:  # images without phrases
                continue
            if grounding is None:
                out[rows] = _attended(matcher, split, first, rows, context)
                continue
            captions = split.captions[rows] if vectors is None else vectors[rows]
            own = (split.caption_image[rows] - first).tolist()
            pairs = matcher.pairs(split.images(images), captions, own)
            scores = grounding.ground(pairs.images, pairs.captions, pairs.captions.image)
            out[rows] = scores.float().cpu().numpy()
    if grounding is None and context == CONTEXTS[0]:
        _tell_cut(matcher, split)
    return out


def _tell_cut(matcher: Matcher, split: PhraseSplit) -> None:
    if cut := sum(is_cut_off(matcher, phrase) for phrase in split.phrases):
        say(
            f"{cut} of {len(split.phrases)} phrases are read alone, as with context=phrase, "
            "because their captions are cut before them after "
            f"{getattr(matcher.vocab, 'max_length', 0)} word pieces"
        )


def _attended(
    matcher: Matcher, split: PhraseSplit, image: int, rows: slice, context: str
) -> np.ndarray:
    """Compute the attention (m, R) of the regions of one image to its phrases."""
    phrases = split.phrases[rows]
    alone = [context == "phrase" or is_cut_off(matcher, p) for p in phrases]
    texts = [
        " ".join(p.caption) if p.caption and not single else p.text
        for p, single in zip(phrases, alone, strict=True)
    ]
    once = list(dict.fromkeys(texts))
    pairs = matcher.pairs(split.images(np.array([image])), once, [0] * len(once))
    encoded = matcher.encode_images(pairs.images), matcher.encode_captions(pairs.captions)
    attention = matcher.attention(*encoded)[0].float().cpu().numpy()  # (c, R, L)
    found = []
    for phrase, text, single in zip(phrases, texts, alone, strict=True):
        start, stop = word_positions(matcher, text.split(), None if single else phrase)
        found.append(attention[once.index(text), :, start:stop].mean(-1))
    return np.stack(found)


def is_cut_off(matcher: Matcher, phrase: Phrase) -> bool:
    """Tell whether a phrase reaches beyond the word pieces that a matcher reads of its caption."""
    vocab = matcher.vocab
    start = " ".join(phrase.caption[: phrase.span[1]])
    return isinstance(vocab, BertVocabulary) and bool(start) and vocab.is_cut(start)


def word_positions(
    matcher: Matcher, words: Sequence[str], phrase: Phrase | None = None
) -> tuple[int, int]:
    """Find the tokens [start, stop) of a phrase in its caption, or of all words without a phrase.

    A tokeniser may split words, so the tokens before the phrase are counted. Another word follows
    them, because the tokenisers of sentences split off the last full stop: "Mr." would become two.
    """
    assert matcher.vocab is not None
    encode = matcher.vocab.encode
    markers = len(encode(""))  # one before, one after
    start, stop = (0, len(words)) if phrase is None or not phrase.caption else phrase.span
    ends = []
    for end in (start, stop):
        last = end == len(words)
        tokens = encode(" ".join(words if last else [*words[:end], "x"]))
        ends.append(len(tokens) - len(encode("" if last else "x")) + markers // 2)
    return ends[0], max(ends[1], ends[0] + 1)


def rank_right_region(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute the 0-based rank of the best right region of each phrase; -1 if no region is right.

    Among equal scores, wrong regions come first, so constant scores find nothing.

    Args:
        scores: (M, R), -inf for padding.
        right: (M, R) bool.

    Raises:
        ValueError: the shapes differ, or a score is NaN.
    """
    if scores.shape != right.shape:
        raise ValueError(f"scores are {scores.shape}, the overlaps {right.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).any(1).sum())} phrases have scores that are NaN")
    right = right & (scores > -np.inf)
    best = np.where(right, scores, -np.inf).max(1, keepdims=True, initial=-np.inf)
    found = ((scores >= best) & ~right & (scores > -np.inf)).sum(1)
    return np.where(right.any(1), found, -1)


def localisation_accuracy(
    scores: np.ndarray, overlaps: np.ndarray, types: Sequence[str] | None = None
) -> dict[str, dict[str, float]]:
    """Compute the localisation accuracy in percent, of all phrases and of each type.

    Source: the protocol of Flickr30K Entities (Plummer et al., IJCV 2017).

    Args:
        scores: (M, R) of each phrase with the regions of its image, -inf for padding.
        overlaps: (M, R) overlap of these regions with the box of the phrase.
        types: type of each phrase; "a/b" counts as both.

    Returns:
        For "all" and each type: "phrases", the number of phrases; "r1" (the accuracy), "r5" and
        "r10", the share of phrases for which one of the best K regions overlaps the box by at least
        0.5; "bound", the share for which any region does; "chance", r1 of a random region.
    """
    right = overlaps >= FOUND
    place = rank_right_region(scores, right)
    real = scores > -np.inf
    chance = (right & real).sum(1) / real.sum(1).clip(1)
    groups: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(types or ()):
        for part in filter(None, name.split("/")):
            groups[part].append(row)
    every = {"all": np.arange(len(place))} | {k: np.array(groups[k]) for k in sorted(groups)}
    return {
        name: {
            "phrases": len(rows),
            **{f"r{k}": _percent((place[rows] >= 0) & (place[rows] < k)) for k in KS},
            "bound": _percent(place[rows] >= 0),
            "chance": _percent(chance[rows]),
        }
        for name, rows in every.items()
    }


def _percent(values: np.ndarray) -> float:
    return 100 * float(values.mean()) if len(values) else 0.0


def localise(
    matcher: Matcher,
    split: PhraseSplit,
    context: str = "caption",
    vectors: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Localise the phrases of a split: `region_scores`, then `measure_localisation`.

    Args:
        matcher: see `region_scores`.
        split: M phrases.
        context: see `region_scores`.
        vectors: see `region_scores`.

    Returns:
        See `localisation_accuracy`.
    """
    return measure_localisation(split, region_scores(matcher, split, context, vectors))


def measure_localisation(split: PhraseSplit, scores: np.ndarray) -> dict[str, dict[str, float]]:
    """Compute `localisation_accuracy` of scores (M, R) with the boxes and types of a split."""
    overlaps = split.overlaps(range(len(split.phrases)))
    return localisation_accuracy(scores, overlaps, [phrase.type for phrase in split.phrases])
