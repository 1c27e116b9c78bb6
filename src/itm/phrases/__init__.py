"""Relate words and boxes: files of phrases, splits of phrases, localisation."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "split": ["Phrase", "PhraseSplit", "phrase_split"],
        "source": ["PhraseSource"],
        "files": ["read_phrases"],
        "localisation": ["localise"],
    },
)

if TYPE_CHECKING:
    from itm.phrases.files import read_phrases as read_phrases
    from itm.phrases.localisation import localise as localise
    from itm.phrases.source import PhraseSource as PhraseSource
    from itm.phrases.split import Phrase as Phrase
    from itm.phrases.split import PhraseSplit as PhraseSplit
    from itm.phrases.split import phrase_split as phrase_split
