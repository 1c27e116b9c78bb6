"""SGRAF: SGR and SAF (Diao et al., AAAI 2021)."""

from itm.models.sgraf.sgraf import SGRAF

__all__ = ["SGRAF"]
