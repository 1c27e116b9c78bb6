"""What matchers make of a split: scores, scores with completed labels, written sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from itm.data.layout import Split
from itm.layers.text import as_text_encoder
from itm.metrics.captioning import caption_scores
from itm.models.cvse.cvse import CVSE
from itm.models.cvse.transductive import PUBLISHED, score_transductive
from itm.models.vsrn.vsrn import VSRN

if TYPE_CHECKING:
    from itm.matcher.matcher import Matcher


def score_split(matcher: Matcher, split: Split, batch_size: int = 128) -> np.ndarray:
    """Score every image of a split with every caption; each is encoded once.

    Args:
        matcher: with `text=vectors` it reads the split's sentence vectors in place of sentences.
        split: N images, M captions.
        batch_size: how many are encoded at once.

    Returns:
        (N, M) float32.
    """
    vectors = as_text_encoder(matcher.text).needs_vectors
    sentences = split.sentence_vectors() if vectors else split.captions
    return matcher.score(split.view(), sentences, batch_size)


def score_completed(
    matchers: Mapping[str, Matcher], split: Split, rule: str, batch_size: int = 128
) -> dict[str, np.ndarray]:
    """Score a split by each CVSE, after the captions of the split lent each other concept labels.

    Args:
        matchers: name -> matcher; those of other classes are passed over.
        split: N images, M captions.
        rule: "f30k" or "coco", see `itm.models.cvse.transductive.PUBLISHED`.
        batch_size: how many are encoded at once.

    Returns:
        Name with "(transductive)" -> (N, M) float32.

    Raises:
        ValueError: none of the matchers is a CVSE.
    """
    found = {
        f"{name} (transductive)": score_transductive(
            matcher, split.view(), split.captions, *PUBLISHED[rule], batch_size
        )
        for name, matcher in matchers.items()
        if isinstance(matcher, CVSE)
    }
    if not found:
        raise ValueError("transductive= completes the concept labels of CVSE; give its checkpoint=")
    return found


class Written(NamedTuple):
    """What one matcher wrote.

    Attributes:
        sentences: N sentences, one per image.
        scores: as `itm.metrics.captioning.caption_scores` computes them.
    """

    sentences: list[str]
    scores: dict[str, float]


def write_sentences(
    matchers: Mapping[str, Matcher], split: Split, batch_size: int = 128
) -> dict[str, Written]:
    """Let each matcher with a captioner write a sentence per image, and score the sentences.

    Args:
        matchers: name -> matcher; those without a captioner are passed over.
        split: N images, whose captions are the references.
        batch_size: images at once.

    Raises:
        ValueError: none of the matchers has a captioner.
    """
    found = {}
    for name, matcher in matchers.items():
        if isinstance(matcher, VSRN) and matcher.captioner is not None:
            sentences = matcher.describe(split.view(), batch_size)
            found[name] = Written(sentences, caption_scores(sentences, split.references()))
    if not found:
        raise ValueError(
            "describe=true needs a matcher that writes sentences: VSRN with model.caption_weight>0"
        )
    return found
