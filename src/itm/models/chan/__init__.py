"""CHAN (Pan et al., CVPR 2023)."""

from itm.models.chan.chan import CHAN, RegionAttention
from itm.models.chan.matching import HardAlignment

__all__ = ["CHAN", "HardAlignment", "RegionAttention"]
