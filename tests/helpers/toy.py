"""A small backbone as a user would write one: mean of regions against mean of word vectors."""

from typing import Any

from torch import nn

from itm.batch import Captions, Encoded, Images
from itm.layers.functional import l2norm, masked_mean
from itm.layers.text import text_encoder
from itm.matcher.matcher import OBJECTS, Matcher


class MeanMatcher(Matcher):
    def __init__(
        self,
        vocab_size: int,
        img_dim: int,
        embed_dim: int = 64,
        text: dict[str, Any] | None = None,
        *,
        loss=None,
        optimizer=None,
        scheduler=None,
    ):
        super().__init__(loss, optimizer, scheduler)
        self.save_hyperparameters(ignore=OBJECTS)
        self.image = nn.Linear(img_dim, embed_dim)
        self.text = text_encoder(text or {"name": "gru"}, vocab_size, embed_dim, word_dim=32)

    def encode_images(self, images: Images) -> Encoded:
        parts = self.image(images.regions)
        return Encoded(l2norm(masked_mean(parts, images.mask)), parts, images.mask)

    def encode_captions(self, captions: Captions) -> Encoded:
        words, mask = self.text(captions)
        return Encoded(l2norm(masked_mean(words, mask)), words, mask)
