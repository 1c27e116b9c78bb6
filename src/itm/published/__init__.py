"""Read and write the files of the original code bases: checkpoints and vocabularies."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "convert": ["FAMILIES", "TRAINING", "from_published", "save_published"],
        "files": ["read_checkpoint"],
        "vocabulary": ["read_vocabulary"],
    },
)

if TYPE_CHECKING:
    from itm.published.convert import FAMILIES as FAMILIES
    from itm.published.convert import TRAINING as TRAINING
    from itm.published.convert import from_published as from_published
    from itm.published.convert import save_published as save_published
    from itm.published.files import read_checkpoint as read_checkpoint
    from itm.published.vocabulary import read_vocabulary as read_vocabulary
