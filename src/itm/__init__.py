"""Match images and text with interchangeable backbones, losses and evaluation.

`build` makes a matcher from the same YAML files as the command line, `load` reads a saved matcher,
`from_published` reads weights of the original code bases, and `list_models` lists the backbones.
"""

from typing import TYPE_CHECKING

import lazy_loader  # `import itm` costs milliseconds; a name is imported when it is first used

__version__ = "0.1.0"

__getattr__, _, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "data",
        "explain",
        "localise",
        "losses",
        "matcher",
        "metrics",
        "models",
        "published",
        "relevance",
        "scenes",
        "text",
    ],
    submod_attrs={
        "app.build": ["build", "list_models"],
        "checkpoints.folder": ["load"],
        "index": ["Index"],
        "published": ["from_published"],
    },
)
__all__ += ["__version__"]


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from itm import data as data
    from itm import explain as explain
    from itm import localise as localise
    from itm import losses as losses
    from itm import matcher as matcher
    from itm import metrics as metrics
    from itm import models as models
    from itm import published as published
    from itm import relevance as relevance
    from itm import scenes as scenes
    from itm import text as text
    from itm.app.build import build as build
    from itm.app.build import list_models as list_models
    from itm.checkpoints.folder import load as load
    from itm.index import Index as Index
    from itm.published import from_published as from_published
