"""What a matcher looks at when it scores one image with one caption.

`explain` asks the matcher's `details` method: attention between regions and words, weights of
regions or words, the edges of SGR, the labels of CASC, the concepts of CVSE. A matcher of your own
defines `details`, or needs nothing more than an `attention` method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from itm.batch import Encoded

if TYPE_CHECKING:
    from itm.matcher.matcher import Matcher

TOP = 8  # labels or concepts that are told
WAYS = {"t2i": "where each word looks", "i2t": "which words each region reads"}


class Details(NamedTuple):
    """What a matcher tells about one pair; every entry has a title.

    Attributes:
        attention: (R, L) weights of regions for words.
        regions: (R,) weight of each region.
        words: (L,) weight of each word.
        edges: (1 + L, 1 + L) weights between the whole (first) and the words.
        names: labels or concepts: word, how strongly the image names it, and the caption.
    """

    attention: dict[str, np.ndarray] = {}
    regions: dict[str, np.ndarray] = {}
    words: dict[str, np.ndarray] = {}
    edges: dict[str, np.ndarray] = {}
    names: dict[str, list[tuple[str, float, float]]] = {}


class Explanation(NamedTuple):
    """Why an image of R regions and a caption of L tokens score as they do.

    Attributes:
        caption: the sentence.
        tokens: L tokens as the matcher reads them, markers included.
        score: similarity of the pair.
        details: what the matcher tells.
    """

    caption: str
    tokens: list[str]
    score: float
    details: Details


def explain(matcher: Matcher, regions: np.ndarray, caption: str) -> Explanation:
    """Score one image with one caption, and ask the matcher what it looks at.

    Args:
        matcher: any matcher with a vocabulary.
        regions: (R, F) features.
        caption: a sentence.

    Raises:
        ValueError: a matcher that reads no sentences, or that compares global vectors only.
    """
    pairs = matcher.pairs(np.asarray(regions)[None], [caption])
    assert matcher.vocab is not None  # matcher.pairs has checked
    tokens = matcher.vocab.decode(pairs.captions.tokens[0].tolist())
    training = matcher.training
    matcher.eval()
    try:
        with torch.no_grad():
            images = matcher.encode_images(pairs.images)
            captions = matcher.encode_captions(pairs.captions)
            score = float(matcher.similarity(images, captions))
            found = matcher.details(pairs, images, captions)
    finally:
        matcher.train(training)
    return Explanation(caption, tokens, score, found)


def attention_details(
    matcher: Matcher, images: Encoded, captions: Encoded, direction: str = "t2i"
) -> Details:
    """Tell the attention of the one pair in a batch.

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
            "whole sentence and weighs nothing; docs/explain.md lists the models that can be "
            "explained, and your own model can define `details`"
        ) from error
    return Details(attention={WAYS[direction]: array(weights[0, 0])})


def strongest(
    words: Sequence[str], image: np.ndarray, text: np.ndarray
) -> list[tuple[str, float, float]]:
    """Choose the words that image and caption together name most strongly, strongest first."""
    order = np.argsort(-np.nansum([image, text], 0), kind="stable")[:TOP]
    return [(words[k], float(image[k]), float(text[k])) for k in order]


def array(values: Tensor) -> np.ndarray:
    """Copy to the host, as float32."""
    return values.detach().float().cpu().numpy()
