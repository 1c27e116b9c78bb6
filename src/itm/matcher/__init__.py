"""The base class of all backbones: training, scoring plain data, explanation.

Examples:
    >>> from torch import nn
    >>> from itm.batch import Encoded
    >>> from itm.matcher import Matcher
    >>> class Mean(Matcher):
    ...     def __init__(self, vocab_size=None, img_dim=8, loss=None):
    ...         super().__init__(loss)
    ...         self.save_hyperparameters(ignore=["loss"])
    ...         self.image = nn.Linear(img_dim, 4)
    ...         self.words = nn.EmbeddingBag(vocab_size, 4)
    ...     def encode_images(self, images):
    ...         return Encoded(self.image(images.regions.mean(1)))
    ...     def encode_captions(self, captions):
    ...         return Encoded(self.words(captions.tokens))
    >>> matcher = Mean(vocab_size=9)
    >>> type(matcher.image).__name__
    'Linear'
"""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "matcher": ["OBJECTS", "Matcher"],
        "explanation": ["Details", "Explanation", "explain"],
    },
)

if TYPE_CHECKING:
    from itm.matcher.explanation import Details as Details
    from itm.matcher.explanation import Explanation as Explanation
    from itm.matcher.explanation import explain as explain
    from itm.matcher.matcher import OBJECTS as OBJECTS
    from itm.matcher.matcher import Matcher as Matcher
