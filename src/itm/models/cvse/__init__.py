"""CVSE (Wang et al., ECCV 2020)."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "consensus": ["LayerOptions", "Levels"],
        "cvse": ["CVSE"],
    },
)

if TYPE_CHECKING:
    from itm.models.cvse.consensus import LayerOptions as LayerOptions
    from itm.models.cvse.consensus import Levels as Levels
    from itm.models.cvse.cvse import CVSE as CVSE
