"""CHAN (Pan et al., CVPR 2023)."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"chan": ["CHAN", "RegionAttention"], "matching": ["HardAlignment"]},
)

if TYPE_CHECKING:
    from itm.models.chan.chan import CHAN as CHAN
    from itm.models.chan.chan import RegionAttention as RegionAttention
    from itm.models.chan.matching import HardAlignment as HardAlignment
