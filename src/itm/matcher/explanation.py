"""Explain what a matcher attends to when it scores one image with one caption.

`explain` calls the matcher's `details` method, which returns attention between regions and words,
weights of regions or words, the edges of SGR, the labels of CASC, or the concepts of CVSE. Your own
matcher may define `details`, or only `attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from itm.batch import Encoded
from itm.matcher.scoring import evaluating

if TYPE_CHECKING:
    from itm.matcher.matcher import Matcher

TOP = 8  # labels or concepts in an explanation
WAYS = {"t2i": "where each word looks", "i2t": "which words each region reads"}


class Details(NamedTuple):
    """What a matcher reports about one pair; each field maps titles to values.

    Attributes:
        attention: (R, L) weights of regions for words.
        regions: (R,) weight of each region.
        words: (L,) weight of each word.
        edges: (1 + L, 1 + L) weights between nodes: the global node first, then the words.
        names: labels or concepts: (word, score of the image, score of the caption).
        numbers: single numbers, such as uncertainties.

    Examples:
        >>> from itm.matcher import Details
        >>> Details(numbers={"uncertainty": 0.2}).numbers["uncertainty"]
        0.2
    """

    attention: dict[str, np.ndarray] = {}
    regions: dict[str, np.ndarray] = {}
    words: dict[str, np.ndarray] = {}
    edges: dict[str, np.ndarray] = {}
    names: dict[str, list[tuple[str, float, float]]] = {}
    numbers: dict[str, float] = {}


class Explanation(NamedTuple):
    """The score of an image of R regions and a caption of L tokens, and what it is based on.

    Attributes:
        caption: the sentence.
        tokens: L tokens as the matcher reads them, markers included.
        score: similarity of the pair.
        details: what the matcher reports.

    Examples:
        >>> import numpy as np
        >>> from itm.matcher import explain
        >>> from itm.models import SCAN
        >>> from itm.text import Vocabulary
        >>> vocab = Vocabulary.build(["a dog runs", "a red cat"], min_count=1)
        >>> matcher = SCAN(len(vocab), img_dim=6, embed_dim=8)
        >>> matcher.vocab = vocab
        >>> explanation = explain(matcher, np.ones((5, 6), np.float32), "a dog")
        >>> explanation.tokens
        ['<start>', 'a', 'dog', '<end>']
    """

    caption: str
    tokens: list[str]
    score: float
    details: Details


def explain(matcher: Matcher, regions: np.ndarray, caption: str) -> Explanation:
    """Score one image with one caption and report what the matcher attends to.

    Args:
        matcher: any matcher with a vocabulary.
        regions: (R, F) features.
        caption: a sentence.

    Raises:
        ValueError: the matcher reads no sentences, or compares global vectors only; or there are
            several images.
    """
    regions = np.asarray(regions)
    if regions.ndim not in (1, 2):
        raise ValueError(
            f"regions must be those of one image, (R, F), got {regions.shape}: give one row, X[0]"
        )
    pairs = matcher.pairs([regions], [caption])
    assert matcher.vocab is not None  # matcher.pairs has checked
    tokens = matcher.vocab.decode(pairs.captions.tokens[0].tolist())
    with evaluating(matcher), torch.no_grad():
        images = matcher.encode_images(pairs.images)
        captions = matcher.encode_captions(pairs.captions)
        score = float(matcher.similarity(images, captions))
        found = matcher.details(pairs, images, captions)
    return Explanation(caption, tokens, score, found)


def attention_details(
    matcher: Matcher, images: Encoded, captions: Encoded, direction: str = "t2i"
) -> Details:
    """Return the attention of the only pair in a batch.

    Args:
        matcher: in eval mode.
        images: the image, encoded.
        captions: the caption, encoded.
        direction: "t2i", words attend to regions, or "i2t", regions attend to words.

    Raises:
        ValueError: the matcher has no attention.
    """
    try:
        weights = matcher.attention(images, captions)
    except NotImplementedError as error:
        raise ValueError(
            f"{type(matcher).__name__} compares one vector of the whole image with one of the "
            "whole sentence, so it has no weights to show: docs/explain.md lists the models that "
            "can be explained; your own model can define `details`"
        ) from error
    return Details(attention={WAYS[direction]: array(weights[0, 0])})


def strongest(
    words: Sequence[str], image: np.ndarray, text: np.ndarray
) -> list[tuple[str, float, float]]:
    """Choose the words with the highest sum of image and caption score, highest first."""
    order = np.argsort(-np.nansum([image, text], 0), kind="stable")[:TOP]
    return [(words[k], float(image[k]), float(text[k])) for k in order]


def array(values: Tensor) -> np.ndarray:
    """Copy to the host, as float32."""
    return values.detach().float().cpu().numpy()
