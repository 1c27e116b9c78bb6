"""Answer one query at a time: a sentence -> images, an image -> captions.

Examples:
    >>> import itm
    >>> options = ["data.root.images=[8,4,4]", "data.min_count=1", "data.batch_size=20"]
    >>> matcher = itm.build("scan", overrides=options)
    >>> hits = itm.Index(matcher, matcher.data.test_split).search("a dog", top=2)
    >>> len(hits), hits[0].score >= hits[1].score
    (2, True)
"""

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
