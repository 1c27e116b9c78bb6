"""Read saved folders and checkpoints, and start from the weights of another matcher."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"folder": ["load", "save"], "strict": ["load_strictly"]},
)

if TYPE_CHECKING:
    from itm.checkpoints.folder import load as load
    from itm.checkpoints.folder import save as save
    from itm.checkpoints.strict import load_strictly as load_strictly
