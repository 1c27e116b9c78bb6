"""The backbones, from images and captions to scores and losses."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "casc": ["CASC"],
        "chan": ["CHAN"],
        "cvse": ["CVSE"],
        "scan": ["SCAN"],
        "sgraf": ["SGRAF"],
        "two_branch": ["TwoBranchEmbedding", "TwoBranchSimilarity"],
        "vse_infty": ["VSEInfinity"],
        "vsepp": ["VSEPP"],
        "vsrn": ["VSRN"],
    },
)

if TYPE_CHECKING:
    from itm.models.casc import CASC as CASC
    from itm.models.chan import CHAN as CHAN
    from itm.models.cvse import CVSE as CVSE
    from itm.models.scan import SCAN as SCAN
    from itm.models.sgraf import SGRAF as SGRAF
    from itm.models.two_branch import TwoBranchEmbedding as TwoBranchEmbedding
    from itm.models.two_branch import TwoBranchSimilarity as TwoBranchSimilarity
    from itm.models.vse_infty import VSEInfinity as VSEInfinity
    from itm.models.vsepp import VSEPP as VSEPP
    from itm.models.vsrn import VSRN as VSRN
