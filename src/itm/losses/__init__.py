"""Losses on score matrices; each is usable without Lightning and Hydra.

A loss is called as `loss(scores, pairs, encoded)`: scores (I, C), row = image, column = caption;
`pairs` the batch (None: row i belongs to column i); `encoded` the two `Encoded` sides for the
losses that look at vectors. It may offer `ranking` (the plain ranking loss inside it) and
`terms(scores, pairs, encoded) -> dict` (what it adds on the main score), so that matchers with
several score levels can rank on each level and add the terms once.
"""

from itm.losses.logistic import Logistic, logistic
from itm.losses.multilabel import MultiLabel
from itm.losses.neighborhood import Neighborhood, neighborhood
from itm.losses.sam import SAM, sam
from itm.losses.sam_released import released_sam
from itm.losses.triplet import Triplet, triplet

__all__ = [
    "Logistic",
    "MultiLabel",
    "Neighborhood",
    "SAM",
    "Triplet",
    "logistic",
    "neighborhood",
    "released_sam",
    "sam",
    "triplet",
]
