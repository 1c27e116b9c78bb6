"""Losses on score matrices; each works without Lightning and Hydra.

A loss is called as `loss(scores, pairs, encoded)`, see `itm.losses.base`. If a matcher has several
score levels, the ranking loss (`ranked`) acts on each level and the additional terms (`terms`) act
on the main level only.
"""

from itm.losses.base import Loss, as_loss
from itm.losses.infonce import InfoNCE, infonce
from itm.losses.logistic import Logistic, logistic
from itm.losses.multilabel import MultiLabel
from itm.losses.neighborhood import Neighborhood, neighborhood
from itm.losses.pcmepp import PCMEPP, pcmepp
from itm.losses.sam import SAM, sam
from itm.losses.sam_released import released_sam
from itm.losses.sigmoid import Sigmoid, sigmoid
from itm.losses.triplet import Triplet, triplet

__all__ = [
    "InfoNCE",
    "Logistic",
    "Loss",
    "MultiLabel",
    "Neighborhood",
    "PCMEPP",
    "SAM",
    "Sigmoid",
    "Triplet",
    "as_loss",
    "infonce",
    "logistic",
    "neighborhood",
    "pcmepp",
    "released_sam",
    "sam",
    "sigmoid",
    "triplet",
]


def __dir__() -> list[str]:
    return sorted(__all__)
