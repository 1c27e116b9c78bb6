"""CVSE (Wang et al., ECCV 2020)."""

from itm.models.cvse.consensus import LayerOptions, Levels
from itm.models.cvse.cvse import CVSE

__all__ = ["CVSE", "LayerOptions", "Levels"]
