"""Interchangeable image-text-matching backbones, losses and evaluation.

`build` makes a matcher from the same YAML as the command line, `load` reads a saved one,
`from_published` reads weights of the original code bases, `list_models` lists the choices.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Index", "__version__", "build", "from_published", "list_models", "load"]

if TYPE_CHECKING:
    from itm.checkpoint import load
    from itm.config import build, list_models
    from itm.index import Index
    from itm.published import from_published

_HOME = {
    "Index": "itm.index",
    "build": "itm.config",
    "list_models": "itm.config",
    "load": "itm.checkpoint",
    "from_published": "itm.published",
}


def __getattr__(name: str) -> Any:  # late, so that `import itm` costs milliseconds
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'itm' has no attribute {name!r}")
