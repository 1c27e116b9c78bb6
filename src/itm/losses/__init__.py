"""Losses on score matrices; each works without Lightning and Hydra.

A loss is called as `loss(scores, pairs, encoded)`, see `itm.losses.base`. If a matcher has several
score levels, the ranking loss (`ranked`) acts on each level and the additional terms (`terms`) act
on the main level only.
"""

from itm.losses.base import Loss, as_loss
from itm.losses.logistic import Logistic, logistic
from itm.losses.multilabel import MultiLabel
from itm.losses.neighborhood import Neighborhood, neighborhood
from itm.losses.pcmepp import PCMEPP, pcmepp
from itm.losses.sam import SAM, sam
from itm.losses.sam_released import released_sam
from itm.losses.triplet import Triplet, triplet

__all__ = [
    "Logistic",
    "Loss",
    "MultiLabel",
    "Neighborhood",
    "PCMEPP",
    "SAM",
    "Triplet",
    "as_loss",
    "logistic",
    "neighborhood",
    "pcmepp",
    "released_sam",
    "sam",
    "triplet",
]
