"""VSRN (Li et al., ICCV 2019)."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "vsrn": ["VSRN"],
    },
)

if TYPE_CHECKING:
    from itm.models.vsrn.vsrn import VSRN as VSRN
