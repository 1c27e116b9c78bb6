"""The backbones; each file reads from images and captions to scores and losses."""

from importlib import import_module
from typing import Any

_HOME = {
    "SCAN": "scan",
    "VSRN": "vsrn",
    "SGRAF": "sgraf",
    "CVSE": "cvse",
    "CASC": "casc",
    "TwoBranchEmbedding": "two_branch",
    "TwoBranchSimilarity": "two_branch_similarity",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"itm.models.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
