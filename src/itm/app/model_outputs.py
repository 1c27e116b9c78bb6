"""What some models give beside scores: CVSE's scores with completed labels, VSRN's sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from itm.data.layout import Split
from itm.metrics.captioning import caption_scores
from itm.models.cvse.cvse import CVSE
from itm.models.cvse.transductive import PUBLISHED, score_transductive
from itm.models.vsrn.vsrn import VSRN

if TYPE_CHECKING:
    from itm.matcher.matcher import Matcher


def score_completed(
    matchers: Mapping[str, Matcher], split: Split, rule: str, batch_size: int = 128
) -> dict[str, np.ndarray]:
    """Score a split by each CVSE, with concept labels completed from the captions of the split.

    Args:
        matchers: name -> matcher; matchers of other classes are left out.
        split: N images, M captions.
        rule: "f30k" or "coco", see `itm.models.cvse.transductive.PUBLISHED`.
        batch_size: number of images or captions encoded at once.

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
    """The sentences that one matcher generated.

    Attributes:
        sentences: N sentences, one per image.
        scores: from `itm.metrics.captioning.caption_scores`.
    """

    sentences: list[str]
    scores: dict[str, float]


def write_sentences(
    matchers: Mapping[str, Matcher], split: Split, batch_size: int = 128
) -> dict[str, Written]:
    """Generate a sentence per image with each matcher that has a captioner, and score it.

    Args:
        matchers: name -> matcher; matchers without a captioner are left out.
        split: N images, whose captions are the references.
        batch_size: number of images at once.

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
