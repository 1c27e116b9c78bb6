"""What a matcher looks at when it scores one image with one caption.

`explain` collects what its class can tell: attention between regions and words, weights of regions
or words, the edges of SGR, the labels of CASC, the concepts of CVSE. A matcher of your own takes
part with `details.register(YourMatcher)`, or needs nothing more than an `attention` method.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from itm.batch import Encoded, Pairs
from itm.matcher.matcher import Matcher
from itm.models import CASC, CVSE, SGRAF, VSRN
from itm.models.two_branch.branches import TwoBranch

TOP = 8  # labels or concepts that are told


class Details(NamedTuple):
    """What a class of matchers can tell about one pair; every entry has a title.

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
        details: what the matcher can tell.
    """

    caption: str
    tokens: list[str]
    score: float
    details: Details


def explain(matcher: Matcher, regions: np.ndarray, caption: str) -> Explanation:
    """Score one image with one caption and tell what the matcher looks at.

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
        # Gradients stay enabled: CVSE leaves its concepts out where none can be wanted.
        with torch.enable_grad():
            images = matcher.encode_images(pairs.images)
            captions = matcher.encode_captions(pairs.captions)
        with torch.no_grad():
            score = float(matcher.similarity(images, captions))
            found = details(matcher, pairs, images, captions)
    finally:
        matcher.train(training)
    return Explanation(caption, tokens, score, found)


@singledispatch
def details(matcher: Matcher, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
    """What a matcher tells about the one pair in a batch; here its attention.

    Args:
        matcher: in eval mode.
        pairs: one image and one caption.
        images: the image, encoded.
        captions: the caption, encoded.

    Raises:
        ValueError: it has no attention.
    """
    try:
        weights = matcher.attention(images, captions)
    except NotImplementedError as error:
        raise ValueError(
            f"{type(matcher).__name__} compares one vector of the whole image with one of the "
            "whole sentence and weighs nothing; explain scan, casc, sgr, saf, vsrn, cvse or a "
            "two-branch network with model.level=region"
        ) from error
    way = getattr(getattr(matcher, "cross", None), "direction", "t2i")
    return Details(attention={WAYS[way]: array(weights[0, 0])})


WAYS = {"t2i": "where each word looks", "i2t": "which words each region reads"}


@details.register
def _(matcher: CASC, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
    """Attention of either direction, and the labels that the attended vectors name."""
    row = torch.zeros(1, dtype=torch.long, device=matcher.device)
    sides = {"t2i": matcher.t2i, "i2t": matcher.i2t}
    used = {k: x for k, x in sides.items() if matcher.direction in (k, "both")}
    attention = {WAYS[k]: array(x.weights(images, captions)[0, 0]) for k, x in used.items()}
    means = {k: x.matched_means(images, captions, row) for k, x in used.items()}
    named = {k: array(matcher.head(x)[0].sigmoid()) for k, x in means.items()}
    if matcher.labels is None:
        return Details(attention)
    nothing = np.full(len(matcher.labels.words), np.nan)
    image, text = named.get("t2i", nothing), named.get("i2t", nothing)
    return Details(attention, names={"labels": strongest(matcher.labels.words, image, text)})


@details.register
def _(matcher: SGRAF, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
    """Attention of the words; SAF's weights of words, or SGR's edges in its last step."""
    attention = {WAYS["t2i"]: array(matcher.attention(images, captions)[0, 0])}
    if matcher.hparams["module"] == "SAF":
        weights = array(matcher.node_weights(images, captions)[0, 0])
        return Details(attention, words={"what counts (SAF)": weights[1:]})
    edges = array(matcher.edges(images, captions)[0, 0])  # (steps, 1 + L, 1 + L)
    return Details(attention, edges={"what each node reads (SGR, last step)": edges[-1]})


@details.register
def _(matcher: VSRN, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
    """Which regions the image's vector follows."""
    scores = array(matcher.region_scores(pairs.images)[0])
    return Details(regions={"what the image's vector follows": scores})


@details.register
def _(matcher: CVSE, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
    """Attention of the instance level, and the concepts of both sides."""
    regions = {"what the image's vector is made of": array(matcher.region_scores(pairs.images)[0])}
    words = {"what the sentence's vector is made of": array(matcher.word_scores(pairs.captions)[0])}
    if matcher.concepts is None or images.aux is None or captions.aux is None:
        return Details(regions=regions, words=words)
    image, text = (array(x.aux["log_concepts"][0].exp()) for x in (images, captions) if x.aux)
    return Details(
        regions=regions,
        words=words,
        names={"concepts": strongest(matcher.concepts.words, image, text)},
    )


@details.register
def _(matcher: TwoBranch, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
    """How well the sentence fits each region.

    Raises:
        ValueError: level "image", which knows of no single region.
    """
    if matcher.level != "region":
        raise ValueError(
            "this two-branch network compares the mean of all regions; train one with "
            "model.level=region to see single regions"
        )
    scores = array(matcher.ground(pairs.images, pairs.captions)[0])
    return Details(regions={"how well the sentence fits each region": scores})


def strongest(
    words: Sequence[str], image: np.ndarray, text: np.ndarray
) -> list[tuple[str, float, float]]:
    """The words that image and caption name most strongly together, strongest first."""
    order = np.argsort(-np.nansum([image, text], 0), kind="stable")[:TOP]
    return [(words[k], float(image[k]), float(text[k])) for k in order]


def array(values: Tensor) -> np.ndarray:
    """On the host, as float32."""
    return values.detach().float().cpu().numpy()
