"""Turn captions into ids, and find label and concept words in them."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "vocabulary": [
            "END",
            "PAD",
            "SPECIALS",
            "START",
            "UNK",
            "BertVocabulary",
            "Tokens",
            "Vocabulary",
            "vocabulary_from",
        ],
        "tokenizers": ["TOKENIZERS", "lower", "tokenize"],
        "concepts": ["Concepts"],
        "labels": ["Labels"],
    },
)

if TYPE_CHECKING:
    from itm.text.concepts import Concepts as Concepts
    from itm.text.labels import Labels as Labels
    from itm.text.tokenizers import TOKENIZERS as TOKENIZERS
    from itm.text.tokenizers import lower as lower
    from itm.text.tokenizers import tokenize as tokenize
    from itm.text.vocabulary import END as END
    from itm.text.vocabulary import PAD as PAD
    from itm.text.vocabulary import SPECIALS as SPECIALS
    from itm.text.vocabulary import START as START
    from itm.text.vocabulary import UNK as UNK
    from itm.text.vocabulary import BertVocabulary as BertVocabulary
    from itm.text.vocabulary import Tokens as Tokens
    from itm.text.vocabulary import Vocabulary as Vocabulary
    from itm.text.vocabulary import vocabulary_from as vocabulary_from
