"""CASC (Xu et al., TNNLS 2020)."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attention": ["TwoWayAttention"],
        "casc": ["CASC"],
        "label_head": ["LabelHead", "LabelOptions"],
    },
)

if TYPE_CHECKING:
    from itm.models.casc.attention import TwoWayAttention as TwoWayAttention
    from itm.models.casc.casc import CASC as CASC
    from itm.models.casc.label_head import LabelHead as LabelHead
    from itm.models.casc.label_head import LabelOptions as LabelOptions
