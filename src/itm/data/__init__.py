"""A folder of features and captions -> batches."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "module": ["RegionDataModule"],
        "layout": ["ImageView", "Split", "read_split"],
    },
)

if TYPE_CHECKING:
    from itm.data.layout import ImageView as ImageView
    from itm.data.layout import Split as Split
    from itm.data.layout import read_split as read_split
    from itm.data.module import RegionDataModule as RegionDataModule
