"""CASC (Xu et al., TNNLS 2020)."""

from itm.models.casc.attention import TwoWayAttention
from itm.models.casc.casc import CASC
from itm.models.casc.label_head import LabelHead, LabelOptions

__all__ = ["CASC", "LabelHead", "LabelOptions", "TwoWayAttention"]
