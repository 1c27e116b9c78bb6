"""VSRN (Li et al., ICCV 2019)."""

from itm.models.vsrn.vsrn import VSRN

__all__ = ["VSRN"]
