"""Answer one query at a time: a sentence -> images, an image -> captions."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "index": ["Hit", "Index"],
    },
)

if TYPE_CHECKING:
    from itm.index.index import Hit as Hit
    from itm.index.index import Index as Index
