"""SGRAF: SGR and SAF (Diao et al., AAAI 2021)."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "sgraf": ["SGRAF"],
    },
)

if TYPE_CHECKING:
    from itm.models.sgraf.sgraf import SGRAF as SGRAF
